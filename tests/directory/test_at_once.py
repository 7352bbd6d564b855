"""A new tenant by one statement of PostgreSQL: as safe as under the lock, in one round trip."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine, make_url

from tenantry import Isolation, Placement, Tenant
from tenantry.directory import TableDirectory
from tenantry.errors import DirectoryUnavailableError, DuplicatePlacementError
from tests.directory.conftest import CONTROLS
from tests.directory.counting import tenant
from tests.directory.relay import Relay

pytestmark = pytest.mark.parametrize(
    "control_url", [each for each in CONTROLS if each.startswith("postgresql")], indirect=True
)
LEVELS = ["read committed", "repeatable read", "serializable"]


def in_app(tenant_id: str, isolation: Isolation, schema: str | None = None) -> Tenant:
    return Tenant(tenant_id, Placement("eu", isolation, "app", schema))


# What A records, what B wants meanwhile, and whether B may have it.
RIVALS: dict[str, tuple[Tenant, Tenant, bool]] = {
    "id": (tenant("uk"), Tenant("uk", Placement("main", database="b.db")), False),
    "place": (tenant("uk"), Tenant("aus", tenant("uk").placement), False),
    "identifier": (tenant("uk", identifiers=("x",)), tenant("aus", identifiers=("x",)), False),
    "identifier and id": (tenant("uk", identifiers=("aus",)), tenant("aus"), False),
    "id and identifier": (tenant("aus"), tenant("uk", identifiers=("aus",)), False),
    "a crowd for one": (
        in_app("uk", Isolation.SCHEMA, "uk"),
        in_app("aus", Isolation.DATABASE),
        False,
    ),
    "one in a crowd": (
        in_app("uk", Isolation.DATABASE),
        in_app("aus", Isolation.ROWS, "shop"),
        False,
    ),
    "a crowd": (in_app("uk", Isolation.SCHEMA, "a"), in_app("aus", Isolation.SCHEMA, "b"), True),
    "nothing": (tenant("uk", identifiers=("x",)), tenant("aus", identifiers=("y",)), True),
}


@pytest.fixture
def begun(control_url: str) -> Iterator[Engine]:
    """An engine that does something at BEGIN, so its writes are transactions under the lock."""
    engine = create_engine(control_url, future=True)
    event.listen(engine, "begin", lambda _connection: None)
    TableDirectory(engine).create_tables()
    yield engine
    engine.dispose()


@pytest.fixture
def relay(control_url: str) -> Iterator[Relay]:
    url = make_url(control_url)
    assert url.host is not None
    assert url.port is not None
    relay = Relay(url.host, url.port)
    yield relay
    relay.close()


def through(relay: Relay, url: str) -> str:
    return (
        make_url(url).set(host="127.0.0.1", port=relay.port).render_as_string(hide_password=False)
    )


def hold(engine: Engine) -> tuple[threading.Event, threading.Event]:
    """Have commits of *engine* wait: (one has come so far, let it pass)."""
    come, go = threading.Event(), threading.Event()

    @event.listens_for(engine, "commit")
    def wait(_connection: Any) -> None:
        come.set()
        assert go.wait(30)

    return come, go


def waiting(url: str, count: int = 1) -> None:
    """Until *count* sessions wait for a lock."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    until = time.monotonic() + 30
    with engine.connect() as connection:
        query = text(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while connection.execute(query).scalar() != count:
            assert time.monotonic() < until
            time.sleep(0.01)
    engine.dispose()


def said(call: Callable[[], Any]) -> str:
    with pytest.raises(DuplicatePlacementError) as caught:
        call()
    return str(caught.value)


def statements_of(engine: Engine) -> list[str]:
    seen: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def count(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement.split()[0])

    return seen


def test_a_new_tenant_is_one_round_trip(control_url: str, relay: Relay) -> None:
    directory = TableDirectory(through(relay, control_url))
    directory.create_tables()
    for number in range(12):  # psycopg prepares a statement that it meets for the sixth time
        directory.add(tenant(f"first{number}"))
    relay.round_trips = 0
    added = directory.add(tenant("uk", attributes={"plan": "gold", "seats": 1.0}))
    assert relay.round_trips == 1
    assert directory.get("uk") == added
    assert relay.round_trips == 2
    directory.add(tenant("named", identifiers=("n",)))
    directory.add(tenant("counted", identifiers=("m",)))
    relay.round_trips = 0
    added = directory.add(tenant("aus", identifiers=("b", "aus", "a", "b")))
    assert relay.round_trips == 1
    assert added.identifiers == ("b", "a")
    assert directory.get("aus") == directory.find("a") == added
    assert directory.version() == 17
    directory.close()


def test_a_new_tenant_is_planned_a_few_times_and_not_each_time(control_url: str) -> None:
    directory = TableDirectory(control_url)
    directory.create_tables()
    for number in range(20):
        directory.add(tenant(f"t{number}"))
    query = text("SELECT custom_plans, generic_plans >= 8 FROM pg_prepared_statements")
    plans = directory._control.read(lambda link: link.execute(query).all())
    assert plans == ([] if "psycopg2" in control_url else [(5, True)])  # psycopg2 prepares nothing
    directory.close()


@pytest.mark.parametrize("rival", RIVALS)
def test_what_is_taken_is_refused_in_the_same_words(
    control_url: str, begun: Engine, rival: str
) -> None:
    first, second, both = RIVALS[rival]
    locked = TableDirectory(begun)
    directory = TableDirectory(control_url)
    directory.add(first)
    if both:
        directory.add(second)
    else:
        assert said(lambda: directory.add(second)) == said(lambda: locked.add(second))
    assert directory.version() == 2 + both
    directory.close()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rival", RIVALS)
def test_another_writer_may_commit_between_look_and_record(
    control_url: str, begun: Engine, rival: str, level: str
) -> None:
    """A counted up, recorded and has not committed: B sees nothing of it, and waits for the row."""
    first, second, both = RIVALS[rival]
    come, go = hold(begun)
    level = level.replace(" ", "\\ ")
    directory = TableDirectory(
        make_url(control_url).update_query_dict(
            {"options": f"-c default_transaction_isolation={level}"}
        )
    )
    seen = statements_of(directory._control.engine)
    with ThreadPoolExecutor(2) as threads:
        locked = threads.submit(TableDirectory(begun).add, first)
        assert come.wait(30)
        added = threads.submit(directory.add, second)
        waiting(control_url)
        go.set()
        locked.result()
        if both:
            assert added.result() == directory.get(second.id)
        else:
            assert second.id in said(added.result)
    assert seen[:2] == ["WITH", "UPDATE"]  # and was asked again under the lock
    assert [each.id for each in directory.tenants()] == sorted([first.id, *[second.id] * both])
    assert directory.version() == 2 + both
    directory.close()


def test_an_answer_may_be_lost(control_url: str, relay: Relay) -> None:
    """It was recorded, and nobody heard of it: it is recorded once, and not refused as taken."""
    directory = TableDirectory(through(relay, control_url))
    directory.create_tables()
    directory.add(tenant("first"))
    relay.losing.set()
    added = directory.add(tenant("uk", identifiers=("x",)))
    assert not relay.losing.is_set()
    assert directory.get("uk") == added
    assert directory.version() == 3
    relay.losing.set()
    assert "'uk' cannot be recorded: the id is taken" in said(lambda: directory.add(tenant("uk")))
    directory.close()


def test_an_answer_may_be_lost_with_the_way_to_the_server(control_url: str, relay: Relay) -> None:
    """As at a COMMIT: what was done cannot be known, and is not done again."""
    directory = TableDirectory(through(relay, control_url))
    directory.create_tables()
    directory.add(tenant("first"))
    relay.closed = True
    relay.losing.set()
    with pytest.raises(DirectoryUnavailableError):
        directory.add(tenant("uk"))
    directory.close()
    directory = TableDirectory(control_url)
    assert [each.id for each in directory.tenants()] == ["first", "uk"]
    assert directory.version() == 3
    directory.close()


@pytest.mark.parametrize("rival", ["nothing", "place"])
def test_a_lost_statement_may_still_run_on_the_server(
    control_url: str, begun: Engine, relay: Relay, rival: str
) -> None:
    """It waits for the version's row there, while the same tenant is asked for anew."""
    first, second, both = RIVALS[rival]
    come, go = hold(begun)
    directory = TableDirectory(through(relay, control_url))
    with ThreadPoolExecutor(2) as threads:
        locked = threads.submit(TableDirectory(begun).add, first)
        assert come.wait(30)
        added = threads.submit(directory.add, second)
        waiting(control_url)
        relay.cut()
        waiting(control_url, 2)
        go.set()
        locked.result()
        if both:
            assert added.result() == directory.get(second.id)
        else:
            assert "the place" in said(added.result)
    assert [each.id for each in directory.tenants()] == sorted([first.id, *[second.id] * both])
    assert directory.version() == 2 + both
    directory.close()


def test_what_an_engine_does_at_begin_holds_for_a_new_tenant(begun: Engine) -> None:
    """As what an audit reads: SET LOCAL has no effect without a transaction."""
    seen = statements_of(begun)
    TableDirectory(begun).add(tenant("uk"))
    assert seen == ["UPDATE", "SELECT", "INSERT"]


def test_a_key_that_was_given_is_recorded_under_the_lock(control_url: str) -> None:
    """Only a key of our own tells whether what is recorded was recorded by us."""
    directory = TableDirectory(control_url)
    directory.create_tables()
    seen = statements_of(directory._control.engine)
    assert directory.add(tenant("uk", key="k")).key == "k"
    assert seen == ["UPDATE", "SELECT", "INSERT"]
    assert "the id is taken" in said(lambda: directory.add(tenant("uk", key="k")))
    assert "the key is taken" in said(lambda: directory.add(tenant("aus", key="k")))
    directory.close()


ROUNDS = 15
WRITERS = 8


def wanted(number: int, writer: int) -> Tenant:
    """What a writer wants in a round; its id begins with the round's number."""
    name = f"r{number}"
    own = f"{name}-{writer}"
    crowd = Isolation.SCHEMA if writer % 2 else Isolation.DATABASE
    return [
        Tenant(name, Placement("main", database=own)),
        Tenant(own, Placement("main", database=name)),
        Tenant(own, Placement("main", database=own), identifiers=(name,)),
        Tenant(
            own,
            Placement("main", database=own),
            identifiers=(f"{name}-{(writer + 1) % WRITERS}",),
        ),
        Tenant(own, Placement("main", crowd, name, own if writer % 2 else None)),
    ][number % 5]


def attack(url: str, writer: int) -> tuple[list[Tenant], int, int]:
    """What was recorded for one writer, and how often at once and under the lock."""
    directory = TableDirectory(url)
    seen = statements_of(directory._control.engine)
    recorded = []
    for number in range(ROUNDS):
        try:
            recorded.append(directory.add(wanted(number, writer)))
        except DuplicatePlacementError:
            continue
    directory.close()
    locked = seen.count("UPDATE")
    return recorded, seen.count("WITH") - locked, locked


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_many_who_want_the_same_get_it_once(control_url: str, kind: str) -> None:
    directory = TableDirectory(control_url)
    directory.create_tables()
    pool: ThreadPoolExecutor | ProcessPoolExecutor = ThreadPoolExecutor(WRITERS)
    if kind == "processes":
        pool = ProcessPoolExecutor(WRITERS, multiprocessing.get_context("spawn"))
    with pool:
        answers: list[Future[tuple[list[Tenant], int, int]]] = [
            pool.submit(attack, control_url, writer) for writer in range(WRITERS)
        ]
    recorded = [each for answer in answers for each in answer.result()[0]]
    assert sorted(recorded, key=lambda each: each.id) == directory.tenants()
    assert directory.version() == 1 + len(recorded)
    assert sum(answer.result()[1] for answer in answers) > 0
    for number in range(ROUNDS):
        got = [each for each in recorded if each.id.split("-")[0] == f"r{number}"]
        if number % 5 == 3:
            names = [name for each in got for name in (each.id, *each.identifiers)]
            assert len(set(names)) == len(names)
            assert got
        elif number % 5 == 4:
            kinds = {each.placement.isolation for each in got}
            assert kinds == {Isolation.SCHEMA} or len(got) == 1
        else:
            assert len(got) == 1
    directory.close()
