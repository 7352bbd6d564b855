"""No tenant where nobody handed one over: the right tenant or a refusal, never a default."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from tenantry import Tenancy, carry, errors
from tests.hostile import hostile_ids
from tests.places import Door, Kind, Note, made


@pytest.fixture
def tenancy(tmp_path: Path) -> Iterator[Tenancy]:
    with made(Kind("sqlite", "pysqlite"), tmp_path, None) as place:
        tenancy = place.tenancy("uk", "aus", max_connections=8)
        for tenant_id in ("uk", "aus"):
            Door(tenancy, False).run(
                tenant_id,
                lambda session, t=tenant_id: session.add(Note(id=1, tenant=t)),  # type: ignore[misc]
            )
        yield tenancy
        tenancy.close()


def whose(tenancy: Tenancy) -> str:
    with tenancy.session() as session:
        return str(session.scalar(select(Note.tenant)))


def in_executor(call: Callable[[], str]) -> str:
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(call).result()


def in_thread(call: Callable[[], str]) -> str:
    return _elsewhere(call, lambda target: threading.Thread(target=target))


def in_timer(call: Callable[[], str]) -> str:
    return _elsewhere(call, lambda target: threading.Timer(0.01, target))


def _elsewhere(call: Callable[[], str], make: Callable[[Any], threading.Thread]) -> str:
    answers: list[str | BaseException] = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:
            answers.append(error)

    thread = make(run)
    thread.start()
    thread.join()
    (answer,) = answers
    if isinstance(answer, BaseException):
        raise answer
    return answer


@pytest.mark.parametrize("elsewhere", [in_executor, in_thread, in_timer])
def test_another_thread_has_no_tenant_unless_it_is_carried(
    tenancy: Tenancy, elsewhere: Callable[[Callable[[], str]], str]
) -> None:
    for tenant_id in ("uk", "aus") * 50:
        with tenancy.use(tenant_id):
            with pytest.raises(errors.NoTenantError):
                elsewhere(lambda: whose(tenancy))
            assert elsewhere(carry(lambda: whose(tenancy))) == tenant_id


def test_an_executor_on_an_event_loop(tenancy: Tenancy) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with tenancy.use("uk"):
            with pytest.raises(errors.NoTenantError):
                await loop.run_in_executor(None, whose, tenancy)
            assert await loop.run_in_executor(None, carry(whose), tenancy) == "uk"
            assert await asyncio.to_thread(whose, tenancy) == "uk"  # copies the context

    asyncio.run(main())


def test_a_task_keeps_the_tenant_it_was_started_under(tenancy: Tenancy) -> None:
    async def later(event: asyncio.Event) -> str:
        await event.wait()
        async with tenancy.asession() as session:
            return str(await session.scalar(select(Note.tenant)))

    async def main() -> None:
        before, after = asyncio.Event(), asyncio.Event()
        early = asyncio.create_task(later(before))  # nobody was current
        async with tenancy.use("uk"):
            background = asyncio.create_task(later(after))
        async with tenancy.use("aus"):
            before.set()
            after.set()
            with pytest.raises(errors.NoTenantError):
                await early
            assert await background == "uk"
        await tenancy.aclose()

    asyncio.run(main())


def test_a_generator_that_outlives_its_block(tenancy: Tenancy) -> None:
    def body() -> Iterator[str]:
        for _ in range(3):
            yield whose(tenancy)

    with tenancy.use("uk"):
        plain, carried = body(), carry(body)()
    with pytest.raises(errors.NoTenantError):
        next(plain)
    with tenancy.use("aus"):
        assert list(carried) == ["uk"] * 3


def test_a_session_that_outlives_its_block_serves_its_own_tenant_or_refuses(
    tenancy: Tenancy,
) -> None:
    with tenancy.use("uk"):
        session = tenancy.session()
    assert session.scalar(select(Note.tenant)) == "uk"
    with tenancy.use("aus"), pytest.raises(errors.CrossTenantError):
        session.scalar(select(Note.tenant))
    session.close()


def test_an_asynchronous_generator_that_outlives_its_block(tenancy: Tenancy) -> None:
    async def body() -> AsyncIterator[str]:
        for _ in range(3):
            async with tenancy.asession() as session:
                yield str(await session.scalar(select(Note.tenant)))

    async def main() -> None:
        async with tenancy.use("uk"):
            carried = carry(body)()
        async with tenancy.use("aus"):
            assert [item async for item in carried] == ["uk"] * 3
        await tenancy.aclose()

    asyncio.run(main())


def test_ten_thousand_hostile_ids_reach_no_database(tenancy: Tenancy, tmp_path: Path) -> None:
    opened: list[object] = []
    tenancy.close()
    event.listen(tenancy.engine, "do_connect", lambda *args: opened.append(args))
    files = sorted(tmp_path.rglob("*"))
    for hostile in hostile_ids(10_000):
        with pytest.raises(errors.UnknownTenantError):
            tenancy.use(hostile).__enter__()  # type: ignore[arg-type]
        with pytest.raises(errors.UnknownTenantError):
            tenancy.session(hostile) if isinstance(hostile, str) else tenancy.get(hostile)  # type: ignore[arg-type]
    assert opened == []
    assert sorted(tmp_path.rglob("*")) == files
    assert not list(tmp_path.parent.glob("*.db"))
