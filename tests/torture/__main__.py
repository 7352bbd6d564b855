"""The long form: ``python -m tests.torture --ops 20000 --kind postgresql-asyncpg-async``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.places import KINDS, made
from tests.servers import session as servers
from tests.torture.harness import Plan, torture
from tests.torture.subjects import Routed


def main() -> int:
    kinds = {str(kind): kind for kind in KINDS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", action="append", choices=sorted(kinds))
    parser.add_argument("--ops", type=int, default=20_000)
    parser.add_argument("--tenants", type=int, default=50)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=48)
    parser.add_argument("--budget", type=int, default=8)
    parser.add_argument("--cancels", type=float, default=0.0)
    parser.add_argument("--kill-seconds", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--examples", action="store_true", help="show one error of each class")
    options = parser.parse_args()
    servers.begin(workers=False)
    failed = False
    try:
        for name in options.kind or ["postgresql-psycopg-async"]:
            kind = kinds[name]
            address = None if kind.server == "sqlite" else servers.need(kind.server)
            pooler = servers.need("pgbouncer") if kind.pooled else None
            plan = Plan(
                ops=options.ops,
                threads=options.threads,
                tasks=options.tasks if kind.is_async else 0,
                cancels=options.cancels if kind.is_async else 0.0,
                kill_seconds=options.kill_seconds if address is not None else None,
                full_size=options.budget,
                seed=options.seed,
            )
            with (
                tempfile.TemporaryDirectory() as folder,
                made(kind, Path(folder), address, pooler) as place,
            ):
                subject = Routed(place, options.tenants, options.budget)
                report = torture(subject, plan)
                subject.tenancy.close()
            print(f"{name}, {options.tenants} tenants, {plan}\n  {report}", flush=True)
            if options.examples:
                for error, example in report.examples.items():
                    print(f"  {error}: {example!r}", flush=True)
            failed = failed or bool(report.problems)
    finally:
        servers.end()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
