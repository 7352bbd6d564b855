"""``make superset-demo``: PostgreSQL, Redis, Superset and a host application with three log-ins.

Needs Python 3.10 to 3.12 and nothing else. Servers come from the environment
(``DEMO_POSTGRESQL_URL``, ``REDIS_URL``), else from this machine, else PostgreSQL from a wheel of
the locked environment and Redis as for the tests, from the package manager or a container; with
``SUPERSET_CACHE_DIR`` Superset caches in files. What it started ends with it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT))
HERE = Path(__file__).parent


def main() -> None:
    from examples.superset.environment import superset_python

    python = superset_python()
    if Path(sys.executable) != python:
        os.execv(python, [str(python), str(Path(__file__)), *sys.argv[1:]])
    with contextlib.suppress(KeyboardInterrupt):
        run()


def run() -> None:
    """Start everything and serve until Ctrl-C."""
    from examples.superset.provision import Rest, provision
    from examples.superset.regions import make_postgresql
    from examples.superset.stack import running_superset
    from tenantry.testing.process import free_port

    host_port = int(os.environ.get("PORT") or free_port())
    host_url = f"http://localhost:{host_port}"
    with contextlib.ExitStack() as stack:
        print("starting PostgreSQL and Redis", flush=True)
        regions = make_postgresql(*stack.enter_context(postgresql()))
        environment = {"HOST_APPLICATION_URL": host_url}
        for region in regions.values():
            environment |= region.variables()
        environment |= stack.enter_context(caches())
        print("starting Superset, half a minute (two more the first time)", flush=True)
        superset = stack.enter_context(running_superset(environment=environment))
        with Rest(superset.url, "admin", superset.passwords["admin"]) as rest:
            made = provision(rest, domains=(host_url,))
        passwords = {name: secrets.token_urlsafe(6) for name in ("alice", "bruce", "chloe")}
        os.environ.update(
            {
                "HOST_SECRET_KEY": secrets.token_urlsafe(42),
                "SUPERSET_URL": superset.url,
                "SUPERSET_EMBEDDED": made.embedded,
                "SUPERSET_EMBEDDER_PASSWORD": superset.passwords["embedder"],
                **{f"HOST_PASSWORD_{name.upper()}": word for name, word in passwords.items()},
            }
        )
        serve(host_port)
        print(f"\n  {host_url}\n")
        for name, region in (("alice", "uk"), ("bruce", "aus"), ("chloe", "eu")):
            print(f"    {name:6} password {passwords[name]}   works for {region}")
        print(f"\n  Superset itself: {superset.url}")
        print(f"    admin  password {superset.passwords['admin']}   reads the reference, hq")
        print("\n  Ctrl-C ends everything.", flush=True)
        threading.Event().wait()


def serve(port: int) -> None:
    """Serve the host application in a thread of this process."""
    from werkzeug.serving import make_server

    from examples.superset.host import create_app

    server = make_server("127.0.0.1", port, create_app(), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


@contextlib.contextmanager
def postgresql() -> Iterator[tuple[str, int, str, str]]:
    """Host, port, user and password of a PostgreSQL in which databases may be made."""
    from tenantry.testing.postgresql import running_postgresql

    given = os.environ.get("DEMO_POSTGRESQL_URL")
    if given:
        parts = urlsplit(given)
        yield (
            parts.hostname or "localhost",
            parts.port or 5432,
            parts.username or "",
            (parts.password or ""),
        )
        return
    with running_postgresql() as server:
        yield server.host, server.port, server.user, server.password


@contextlib.contextmanager
def caches() -> Iterator[dict[str, str]]:
    """What tells Superset where to cache: a Redis, or files where somebody asks for them."""
    from tenantry.errors import MissingDependencyError
    from tests.servers import redis

    for name in ("REDIS_URL", "SUPERSET_CACHE_DIR"):
        if os.environ.get(name):
            yield {name: os.environ[name]}
            return
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(redis.running())
        except MissingDependencyError as error:
            raise SystemExit(
                f"{error}. Install Redis, or name one with REDIS_URL=redis://...; "
                "SUPERSET_CACHE_DIR=/some/directory caches in files instead"
            ) from None
        yield {"REDIS_URL": server.url().render_as_string(hide_password=False)}


if __name__ == "__main__":
    main()
