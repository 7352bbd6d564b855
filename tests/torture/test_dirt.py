"""Whatever raw SQL leaves on a connection, the next who gets it finds nothing of it.

Each kind of dirt runs in a session of one tenant on a pool of one connection, ended in three
ways; then the same tenant and another one work, and the connection is compared with a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from tenantry import Isolation, Tenancy
from tenantry.errors import CallerError
from tests.places import KINDS, Door, Kind, Note, made

ROUNDS = int(os.environ.get("TENANTRY_DIRT_ROUNDS", "1"))
BOTH = ("uk", "aus")
ENDS = ("commit", "rollback", "leave")

POSTGRESQL: dict[str, list[str]] = {
    "SET search_path": ["SET search_path TO pg_catalog"],
    "SET ROLE and back": ["SET ROLE NONE", "SET application_name TO 'dirt'"],
    "RESET ALL": ["RESET ALL"],
    "temporary table": ["CREATE TEMP TABLE notes (id int, tenant text, body text)"],
    "temporary table by select": ["SELECT 7 AS id, 'dirt' AS tenant INTO LOCAL TEMP notes"],
    "temporary view": ["CREATE TEMP VIEW authors AS SELECT 1 AS id, 'dirt'::text AS name"],
    "temporary sequence": ["CREATE TEMP SEQUENCE notes_id_seq"],
    "read only": ["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"],
    "statement_timeout": ["SET statement_timeout = 1"],
    "row_security": ["SET row_security = off"],
    "cursor with hold": ["DECLARE dirt CURSOR WITH HOLD FOR SELECT 1"],
    "advisory lock": ["SELECT pg_advisory_lock(4711)"],
    "listen": ["LISTEN dirt"],
    "prepare": ["PREPARE dirt AS SELECT 1"],
    "set_config": ["SELECT set_config('app.dirt', 'dirt', false)"],
    "hidden set_config": ["SELECT \"set_config\"('app.dirt', 'dirt', false)"],
    "standard_conforming_strings": ["SET standard_conforming_strings = off"],
    "commit": [
        "INSERT INTO notes (tenant, body) VALUES ('x', 'raw')",
        "COMMIT",
        "SET TimeZone='Japan'",
    ],
    "rollback": ["ROLLBACK", "SET DateStyle = 'German'"],
    "currval": ["SELECT nextval('notes_id_seq')"],
    "isolation level": ["SET default_transaction_isolation = 'serializable'"],
}
# They would end the transaction that carries the tenant's search_path.
REFUSED_IN_SCHEMAS = ("commit", "rollback")
RESIDUE_POSTGRESQL = """\
SELECT (SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings
        WHERE source = 'session' AND name <> 'transaction_isolation'
          AND name <> 'transaction_read_only' AND name <> 'transaction_deferrable'),
  coalesce(current_setting('app.dirt', true), ''),
  current_user::text, session_user::text,
  (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
  (SELECT count(*) FROM pg_cursors WHERE is_holdable),
  (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
  (SELECT count(*) FROM pg_listening_channels()),
  (SELECT count(*) FROM pg_prepared_statements WHERE from_sql)"""

MARIADB: dict[str, list[str]] = {
    "USE another database": ["USE information_schema"],
    "SET SESSION": ["SET SESSION sql_mode = ''"],
    "user variable": ["SET @dirt = 'dirt'"],
    "user variable by select": ["SELECT 'dirt' INTO @dirt"],
    "quoted user variable": ["SELECT 'dirt' INTO @`dirt`"],
    "GET_LOCK": ["SELECT GET_LOCK('dirt', 0)"],
    "temporary table": ["CREATE TEMPORARY TABLE notes (id int, tenant text, body text)"],
    "LOCK TABLES": ["LOCK TABLES notes READ"],
    "PREPARE": ["PREPARE dirt FROM 'SELECT 1'"],
    "autocommit": ["SET autocommit = 1"],
    "read only": ["SET SESSION TRANSACTION READ ONLY"],
    "isolation level": ["SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"],
    "names": ["SET NAMES latin1"],
    "foreign keys": ["SET foreign_key_checks = 0"],
    "time zone": ["SET time_zone = '+09:00'"],
    "handler": ["HANDLER notes OPEN"],
    "commit": ["INSERT INTO notes (tenant, body) VALUES ('x', 'raw')", "COMMIT"],
}
RESIDUE_MARIADB = (
    "SELECT DATABASE() IS NULL, @dirt, @@autocommit, @@sql_mode, @@tx_isolation, @@tx_read_only, "
    "@@foreign_key_checks, @@time_zone, @@character_set_client, IS_USED_LOCK('dirt')"
)

CASES = [
    pytest.param(kind, name, id=f"{kind}-{name}")
    for kind in KINDS
    if kind.server in ("postgresql", "mariadb")
    and not kind.pooled
    and kind.switch is None
    and (kind.isolation is Isolation.DATABASE or kind.server == "postgresql")
    and kind.isolation is not Isolation.ROWS
    for name in (POSTGRESQL if kind.server == "postgresql" else MARIADB)
]


@pytest.fixture(scope="module")
def places(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Kind], tuple[Tenancy, list[Any]]]]:
    """Each kind's tenants are made once; the dirt must not outlast its test anyway."""
    known: dict[Kind, tuple[Tenancy, list[Any]]] = {}
    with contextlib.ExitStack() as stack:

        def get(kind: Kind) -> tuple[Tenancy, list[Any]]:
            if kind not in known:
                address = request.getfixturevalue(kind.server)
                folder: Path = tmp_path_factory.mktemp("dirt")
                place = stack.enter_context(made(kind, folder, address))
                tenancy = place.tenancy(*BOTH, max_connections=1, wait_seconds=10)
                stack.callback(tenancy.close)
                door = Door(tenancy, kind.is_async)
                for tenant_id in BOTH:
                    door.run(tenant_id, partial(_fill, tenant_id=tenant_id))
                fresh = [door.run(each, lambda session: _residue(session)) for each in BOTH]
                known[kind] = tenancy, fresh
            return known[kind]

        yield get


def _fill(session: Session, tenant_id: str) -> None:
    session.add(Note(tenant=tenant_id, body="seed"))


def _residue(session: Session) -> Any:
    on_mariadb = session.get_bind().dialect.name in ("mysql", "mariadb")
    query = RESIDUE_MARIADB if on_mariadb else RESIDUE_POSTGRESQL
    return tuple(session.execute(text(query)).one())


def _work(session: Session, tenant_id: str) -> None:
    """What the next one does: reads its own row in two ways, and writes."""
    assert session.scalars(select(Note.tenant).where(Note.id == 1)).all() == [tenant_id]
    assert session.scalars(text("SELECT tenant FROM notes WHERE id = 1")).all() == [tenant_id]
    session.add(Note(tenant=tenant_id, body="next"))
    session.flush()
    session.rollback()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_nothing_is_left_for_the_next(
    kind: Kind, name: str, places: Callable[[Kind], tuple[Tenancy, list[Any]]]
) -> None:
    tenancy, fresh = places(kind)
    dirt = (POSTGRESQL if kind.server == "postgresql" else MARIADB)[name]
    refused = kind.isolation is Isolation.SCHEMA and name in REFUSED_IN_SCHEMAS

    async def one(tenant_id: str, body: Callable[[Session], Any]) -> Any:
        if kind.is_async:
            async with tenancy.use(tenant_id), tenancy.asession() as asession:
                return await asession.run_sync(body)
        with tenancy.use(tenant_id), tenancy.session() as session:
            return body(session)

    def make_dirt(session: Session, end: str) -> None:
        for statement in dirt:
            session.execute(text(statement))
        if end == "commit":
            session.commit()
        elif end == "rollback":
            session.rollback()

    # In the short form each kind of dirt is ended in one way, and all three ways are met.
    ends = ENDS if ROUNDS > 1 else (ENDS[sum(map(ord, name + str(kind))) % 3],)

    async def rounds() -> None:
        for _ in range(ROUNDS):
            for end in ends:
                with pytest.raises(CallerError) if refused else contextlib.nullcontext():
                    await one("uk", partial(make_dirt, end=end))
                for tenant_id in ("uk", "aus", "uk"):
                    await one(tenant_id, partial(_work, tenant_id=tenant_id))
                found = [await one(each, _residue) for each in BOTH]
                assert found == fresh, f"after {name!r} and {end}"
        if kind.is_async:
            await tenancy.aclose()

    asyncio.run(rounds())
    assert tenancy.status()["held_by"] == {}
