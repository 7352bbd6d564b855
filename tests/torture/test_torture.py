"""Nobody reads another's rows and nothing acknowledged is lost, whatever is going on.

The short form; ``python -m tests.torture --ops 20000`` is the long one, and
``TENANTRY_TORTURE_OPS`` sets the number of operations of each test here.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tenantry import Isolation
from tenantry.testing.address import ServerAddress
from tests.places import KINDS, Kind, made
from tests.torture.harness import Plan, Report, torture
from tests.torture.subjects import DefaultEngine, LeakyPath, Routed

OPS = int(os.environ.get("TENANTRY_TORTURE_OPS", "200"))
TENANTS = 10
BUDGET = 8


def tortured(kind: Kind) -> bool:
    """Each isolation on every server and driver, also through PgBouncer, switched as by default."""
    if kind.isolation is Isolation.DATABASE:
        return True
    return kind.server == "postgresql" and kind.switch is None


def marked(kind: Kind) -> Any:
    """SQLAlchemy 2.0 passes asyncpg's own errors of a killed connection on, which nobody can tell
    from a fault, and leaves some of its connections to the garbage collector.
    """
    return pytest.param(kind, marks=pytest.mark.newest if kind.driver == "asyncpg" else ())


TORTURED = [kind for kind in KINDS if tortured(kind)]


@pytest.fixture(params=[marked(kind) for kind in TORTURED], ids=str)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Routed]:
    kind: Kind = request.param
    address = None if kind.server == "sqlite" else request.getfixturevalue(kind.server)
    pooler = request.getfixturevalue("pgbouncer") if kind.pooled else None
    with made(kind, tmp_path, address, pooler) as place:
        subject = Routed(place, TENANTS, BUDGET)
        yield subject
        subject.tenancy.close()


def check(report: Report) -> None:
    print(report)
    assert report.problems == {}
    assert report.full_size == BUDGET
    assert report.reads > report.ops // 2
    assert report.acknowledged > report.ops // 8


def test_interleaved_work_with_killed_connections(subject: Routed) -> None:
    is_async = subject.place.kind.is_async
    plan = Plan(
        ops=OPS,
        threads=4 if is_async else 16,
        tasks=48 if is_async else 0,
        kill_seconds=0.1 if subject.place.address is not None else None,
        full_size=BUDGET,
    )
    report = torture(subject, plan)
    check(report)
    assert report.kills > 0 or subject.place.address is None


@pytest.mark.parametrize(
    "subject", [marked(kind) for kind in TORTURED if kind.is_async], indirect=True, ids=str
)
# A connection that aiosqlite is cancelled at is left to the garbage collector, of which Python
# 3.13 tells.
@pytest.mark.filterwarnings("ignore:unclosed database in <sqlite3:ResourceWarning")
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <sqlite3.Connection:pytest.PytestUnraisableExceptionWarning"
)
def test_interleaved_work_with_cancelled_tasks(subject: Routed) -> None:
    plan = Plan(
        ops=OPS,
        threads=2,
        tasks=48,
        cancels=0.4,
        kill_seconds=0.1 if subject.place.address is not None else None,
        full_size=BUDGET,
    )
    report = torture(subject, plan)
    check(report)
    assert report.cancels > OPS // 20
    gc.collect()


@pytest.fixture
def database(postgresql: ServerAddress, tmp_path: Path) -> Iterator[str]:
    with made(Kind("postgresql", "psycopg"), tmp_path, postgresql) as place:
        yield place.database("leaky")


@pytest.mark.parametrize("recipe", [LeakyPath, DefaultEngine])
def test_the_harness_sees_recipes_that_leak(
    recipe: type[LeakyPath], postgresql: ServerAddress, database: str
) -> None:
    subject = recipe(postgresql, database, tenants=4, budget=4)
    report = torture(subject, Plan(ops=300, threads=8, tasks=0, kill_seconds=None, full_size=4))
    subject.close()
    print(report)
    assert len(report.foreign) > report.reads // 20
    assert report.misplaced
