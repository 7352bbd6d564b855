"""``{{ tenant() }}``: the tenant that is read, in templates, and a part of the cache key itself.

Superset adds to a query's key what its own functions hand to ``cache_key_wrapper``, and renders
the template for that only where it finds one of their names in the text.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from jinja2 import pass_context
from jinja2.runtime import Context

from tenantry.integrations.superset.visitor import Visitors

_CALLED = r"(\{\{|\{%)[^{}]*?\btenant\([^)]*\)[^{}]*?(\}\}|%\})"


class TenantFunction:
    """What ``{{ tenant() }}`` calls."""

    def __init__(self, visitors: Visitors) -> None:
        self._visitors = visitors

    @pass_context
    def __call__(self, context: Context) -> str:
        name = self._visitors.template_name()
        # Absent where the user's own template processor is none of Superset's.
        if wrapper := context.get("cache_key_wrapper"):
            wrapper(f"tenantry={name}")
        return name


def count_in_keys(addons: Any) -> None:
    """Let Superset see that a template with our ``tenant()`` has something for the key.

    Does nothing where the user's own function has that name.
    """
    if not isinstance(addons.get("tenant"), TenantFunction):
        return
    try:
        extra_cache: Any = importlib.import_module("superset.jinja_context").ExtraCache
    except ModuleNotFoundError as error:
        if error.name != "superset":
            raise
        return  # an application that is not Superset has no such keys
    extra_cache.regex = also_ours(extra_cache.regex)


def also_ours(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """*pattern*, or a template that calls ``tenant()``."""
    if _CALLED in pattern.pattern:
        return pattern
    return re.compile(f"{pattern.pattern}|{_CALLED}", pattern.flags)
