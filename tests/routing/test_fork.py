"""A forked child leaves the parent's connections alone: no foreign answer, nobody hangs."""

from __future__ import annotations

import os
import time
import traceback
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tenantry import Isolation, Tenancy
from tenantry.testing.address import ServerAddress
from tests.places import Door, Kind, Note, made

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

KINDS = [
    Kind("sqlite", "pysqlite"),
    Kind("postgresql", "psycopg"),
    Kind("postgresql", "psycopg2"),
    Kind("postgresql", "psycopg", isolation=Isolation.SCHEMA),
    Kind("mariadb", "pymysql"),
]
CHILDREN, READS = 8, 50


def reads(tenancy: Tenancy, tenant_id: str, number: int) -> str:
    """Fifty reads with a token in each; what is wrong with them, or nothing."""
    for count in range(READS):
        token = f"{tenant_id}-{number}-{count}"
        with tenancy.use(tenant_id, switch=True), tenancy.session() as session:
            answer = session.execute(select(Note.tenant, func.lower(token.upper()))).one()
            if tuple(answer) != (tenant_id, token):
                return f"asked as {token}, answered {answer}"
    return ""


def wait_for(pids: list[int], seconds: float = 60) -> list[int]:
    """The exit codes of the children; one that hangs is ended and counts as 99."""
    codes = []
    deadline = time.monotonic() + seconds
    for pid in pids:
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes.append(os.waitstatus_to_exitcode(status))
                break
            if time.monotonic() > deadline:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                codes.append(99)
                break
            time.sleep(0.01)
    return codes


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_eight_children_of_a_parent_with_open_connections(
    request: pytest.FixtureRequest, tmp_path: Path, kind: Kind
) -> None:
    address: ServerAddress | None = (
        None if kind.server == "sqlite" else request.getfixturevalue(kind.server)
    )
    with made(kind, tmp_path, address) as place:
        tenancy = place.tenancy("uk", "aus", max_connections=8)
        door = Door(tenancy, False)
        for tenant_id in ("uk", "aus"):
            door.run(tenant_id, lambda session, t=tenant_id: session.add(Note(id=1, tenant=t)))  # type: ignore[misc]
        with tenancy.use("uk"), tenancy.session() as held:
            assert held.scalar(select(Note.tenant)) == "uk"  # in a transaction while it forks
            pids = []
            for number in range(CHILDREN):
                pid = os.fork()
                if pid == 0:
                    _child(tenancy, held, number)
                pids.append(pid)
            assert wait_for(pids) == [0] * CHILDREN
            assert held.scalar(select(Note.tenant)) == "uk"
        assert reads(tenancy, "aus", 0) == ""
        assert tenancy.status()["held_by"] == {}
        tenancy.close()


def _child(tenancy: Tenancy, held: Session, number: int) -> None:
    """Never returns. Every second child closes what it inherited, as programs do at exit."""
    problem = "it ended without an answer"
    try:
        try:
            problem = f"the inherited session answered {held.scalar(select(Note.tenant))}"
        except Exception:  # any refusal will do; an answer would have come by the parent's socket
            problem = reads(tenancy, ("uk", "aus")[number % 2], number)
        if number % 2:
            held.close()
            tenancy.close()
    except BaseException:
        problem = traceback.format_exc()
    finally:
        if problem:
            os.write(2, f"child {number}: {problem}\n".encode())
        os._exit(1 if problem else 0)
