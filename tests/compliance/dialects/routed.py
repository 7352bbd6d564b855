"""Has SQLAlchemy's test engines routed: a plugin for the pytest run of its dialect suite.

The suite makes engines with ``create_engine(url, ...)``. Here that function gives the engine of
a Tenancy whose one tenant lives at that URL, pinned to it. Engines that the suite builds with a
pool or a creator of its own test those and not the dialect; they stay plain.

One difference is meant, and is switched off here: the suite makes temporary tables and attaches
databases once, and expects them on whatever connection the pool gives it later. Routed
connections are cleaned when they come back.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy
from sqlalchemy.engine import URL, Engine, make_url

from tenantry import Placement, Server, Tenancy, Tenant
from tenantry.directory import MappingDirectory
from tenantry.routing import RoutedEngine, guard
from tenantry.routing.pool import BucketRecord

_plain = sqlalchemy.create_engine
_POOLS = {"poolclass", "pool", "creator", "module", "strategy", "_initialize", "plugins"}
made: list[RoutedEngine] = []


def _roll_back(record: BucketRecord) -> None:
    """What SQLAlchemy's own pools do on return."""
    if record.dbapi_connection is not None:
        record.dbapi_connection.rollback()
    record.in_transaction = record.dirty = False
    record.lent = 0


def create_engine(url: str | URL, **options: Any) -> Engine:
    """A routed engine for one tenant at *url*."""
    parsed = make_url(url)
    in_memory = parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:")
    if in_memory or _POOLS & options.keys():
        return _plain(url, **options)
    options.pop("options", None)
    if parsed.get_backend_name() == "sqlite":
        folder, _, database = str(parsed.database).rpartition("/")
        server = Server.from_url("only", parsed.set(database=folder or "."), create_missing=True)
    else:
        database = str(parsed.database)
        server = Server.from_url("only", parsed)
    tenant = Tenant("only-one", Placement("only", database=database))
    tenancy = Tenancy(MappingDirectory([tenant]), [server], engine_options=options)
    engine = tenancy._pinned("only-one", is_async=False)
    engine.url = parsed  # the suite removes the file that an engine names
    made.append(engine)
    return engine


guard.clean = _roll_back
sqlalchemy.create_engine = create_engine  # the name that the suite imports


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"routed engines made: {len(made)}")
