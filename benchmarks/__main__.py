"""``make bench``: every figure that the documentation names, each a ratio of one run.

``python -m benchmarks`` runs all, ``python -m benchmarks routing`` one; further words go to it.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import benchmarks


def main() -> int:
    """Run the benchmarks that were named, or all of them; each is a module with ``main()``."""
    names = [
        each.name for each in pkgutil.iter_modules(benchmarks.__path__) if each.name != "__main__"
    ]
    wanted = [each for each in sys.argv[1:] if not each.startswith("-")]
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        print(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(names)}")
        return 2
    sys.argv = [sys.argv[0], *[each for each in sys.argv[1:] if each.startswith("-")]]
    for name in wanted or names:
        module = importlib.import_module(f"benchmarks.{name}")
        run = getattr(module, "main", None)
        if run is None:
            continue
        print(f"\n== {name} ==", flush=True)
        run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
