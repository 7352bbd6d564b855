"""``python -m tenantry`` is ``tenantry``."""

from .cli.main import main

main()
