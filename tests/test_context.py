"""Who is current: in blocks, threads, tasks, generators, and after anything that goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry import (
    Placement,
    State,
    Tenant,
    carry,
    current,
    in_shared,
    require,
    shared,
    use,
)
from tenantry.context import nobody
from tenantry.errors import NoTenantError, TenantryError, TenantSuspendedError, TenantSwitchError

UK, AUS, EU = (Tenant(name, Placement("main", database=name)) for name in ("uk", "aus", "eu"))


@pytest.fixture(autouse=True)
def _nobody_before_and_after() -> Iterator[None]:
    assert current() is None
    assert not in_shared()
    yield
    assert current() is None
    assert not in_shared()


def test_a_block_has_its_tenant_and_nothing_else_has() -> None:
    with use(UK) as tenant:
        assert tenant is current() is require() is UK
    with pytest.raises(NoTenantError, match=r"no tenant is current; wrap"):
        require()


def test_the_same_tenant_nests_and_another_is_refused() -> None:
    with use(UK):
        with use(replace(UK, state=State.READ_ONLY)):
            assert require().state is State.READ_ONLY
        with pytest.raises(TenantSwitchError, match="'uk' is current, 'aus' was asked for"):
            use(AUS).__enter__()
        assert require() is UK
        with use(AUS, switch=True):
            assert require() is AUS
        assert require() is UK


def test_a_successor_under_the_same_id_is_another_tenant() -> None:
    with use(UK), pytest.raises(TenantSwitchError):
        use(replace(UK, key="successor")).__enter__()


def test_shared_is_said_on_purpose() -> None:
    with use(UK):
        with shared():
            assert in_shared()
            assert current() is None
            with pytest.raises(NoTenantError):
                require()
            with use(AUS):
                assert not in_shared()
        assert require() is UK
        with nobody():
            assert current() is None
            assert not in_shared()


def test_a_tenant_that_does_not_serve_is_refused() -> None:
    with pytest.raises(TenantSuspendedError):
        use(UK.with_state("suspended")).__enter__()


def test_a_block_is_entered_once_at_a_time() -> None:
    block = use(UK)
    with block, pytest.raises(TenantSwitchError, match="entered already"):
        block.__enter__()
    with block:
        assert require() is UK


def test_only_a_tenant_can_be_used() -> None:
    with pytest.raises(TypeError, match=r"tenancy\.use\(id\)"):
        use("uk")  # type: ignore[arg-type]


# 1,000 random nestings, with errors, against a model that is a stack


@dataclass
class Block:
    kind: str
    tenant: Tenant
    raises: bool
    inner: list[Block] = field(default_factory=list)

    def scope(self) -> AbstractContextManager[Any]:
        if self.kind == "shared":
            return shared()
        if self.kind == "nobody":
            return nobody()
        return use(self.tenant, switch=self.kind == "switch")


class BlockError(Exception):
    """Raised by a block that is to fail."""


def random_block(dice: random.Random, depth: int) -> Block:
    inner = dice.choice([0, 1, 1, 2, 3]) if depth else 0
    return Block(
        dice.choice(["use", "use", "switch", "shared", "nobody"]),
        dice.choice([UK, AUS, EU, UK.with_state("suspended")]),
        dice.random() < 0.3,
        [random_block(dice, depth - 1) for _ in range(inner)],
    )


def run(block: Block, before: tuple[Tenant | None, bool]) -> None:
    """Enter *block* and compare with what a stack would say, also after each inner block."""
    taken = before[0]
    refused = block.kind in ("use", "switch") and (
        block.tenant.state is State.SUSPENDED
        or (block.kind == "use" and taken is not None and taken.id != block.tenant.id)
    )
    expected = {"shared": (None, True), "nobody": (None, False)}.get(
        block.kind, (block.tenant, False)
    )
    try:
        with block.scope():
            assert not refused
            assert (current(), in_shared()) == expected
            for each in block.inner:
                with contextlib.suppress(BlockError):
                    run(each, expected)
                assert (current(), in_shared()) == expected
            if block.raises:
                raise BlockError
    except TenantryError:
        assert refused
    finally:
        assert (current(), in_shared()) == before


@settings(max_examples=1_000, deadline=None)
@given(st.integers(0, 2**32))
def test_1000_random_nestings_leave_what_was_there(seed: int) -> None:
    with contextlib.suppress(BlockError):
        run(random_block(random.Random(seed), 5), (None, False))
    assert (current(), in_shared()) == (None, False)


# Threads


def test_a_thread_and_an_executor_start_with_no_tenant() -> None:
    found: list[Tenant | None] = []
    with use(UK), ThreadPoolExecutor(2) as executor:
        thread = threading.Thread(target=lambda: found.append(current()))
        thread.start()
        thread.join()
        found += [executor.submit(current).result() for _ in range(4)]
        timer = threading.Timer(0, lambda: found.append(current()))
        timer.start()
        timer.join()
    assert found == [None] * 6


def test_carry_hands_the_tenant_over_for_one_call() -> None:
    with ThreadPoolExecutor(1) as executor:
        with use(UK):
            as_uk = carry(current)
        with use(AUS):
            as_aus = carry(current)
        as_nobody = carry(current)
        for carried, tenant in ((as_uk, UK), (as_aus, AUS), (as_nobody, None)) * 3:
            assert executor.submit(carried).result() is tenant
            assert executor.submit(current).result() is None


def test_carry_outranks_what_the_thread_has() -> None:
    with use(UK):
        carried = carry(current)
    nothing = carry(current)
    with shared():
        purposely = carry(in_shared)
    with use(AUS):
        assert carried() is UK
        assert nothing() is None
        assert purposely()
        assert require() is AUS


def test_a_carried_function_keeps_its_name_arguments_and_errors() -> None:
    def work(first: int, *, second: int = 0) -> tuple[int, int, str]:
        """The words."""
        if second < 0:
            raise BlockError
        return first, second, require().id

    with use(UK):
        carried = carry(work)
    assert carried(1, second=2) == (1, 2, "uk")
    assert (carried.__name__, carried.__doc__) == ("work", "The words.")
    with pytest.raises(BlockError):
        carried(1, second=-1)


def test_many_threads_at_once_never_see_each_other() -> None:
    tenants = [UK, AUS, EU]
    wrong: list[object] = []

    def work(number: int) -> None:
        dice = random.Random(number)
        for _ in range(300):
            tenant = dice.choice(tenants)
            with contextlib.suppress(BlockError), use(tenant):
                if dice.random() < 0.2:
                    time.sleep(0)
                if current() is not tenant:
                    wrong.append(tenant)
                if dice.random() < 0.3:
                    raise BlockError
            if current() is not None:
                wrong.append(None)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert wrong == []


def test_one_block_in_two_threads_is_refused() -> None:
    block = use(UK)
    with block, ThreadPoolExecutor(1) as executor, pytest.raises(TenantSwitchError):
        executor.submit(block.__enter__).result()


# Tasks


async def test_a_task_started_inside_belongs_to_the_tenant_and_changes_nothing_outside() -> None:
    async def work(other: Tenant) -> list[Tenant]:
        seen = [require()]
        with use(other, switch=True):
            await asyncio.sleep(0.001)
            seen.append(require())
        return [*seen, require()]

    with use(UK):
        tasks = [asyncio.create_task(work(other)) for other in (AUS, EU, UK)]
    assert current() is None
    assert [await task for task in tasks] == [[UK, AUS, UK], [UK, EU, UK], [UK, UK, UK]]


async def test_48_tasks_with_cancels_never_see_each_other() -> None:
    wrong: list[object] = []

    async def work(number: int) -> None:
        dice = random.Random(number)
        for _ in range(40):
            tenant = dice.choice([UK, AUS, EU])
            with use(tenant):
                await asyncio.sleep(dice.random() / 1000)
                if current() is not tenant:
                    wrong.append(tenant)
            if current() is not None:
                wrong.append(None)

    tasks = [asyncio.create_task(work(number)) for number in range(48)]
    await asyncio.sleep(0.01)
    for task in tasks[::3]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert wrong == []


async def test_a_thread_of_the_loop_has_the_tenant_and_an_executor_has_not() -> None:
    loop = asyncio.get_running_loop()
    with use(UK):
        assert await asyncio.to_thread(current) is UK
        assert await loop.run_in_executor(None, current) is None
        assert await loop.run_in_executor(None, carry(current)) is UK


async def test_a_carried_coroutine_function_runs_under_its_tenant() -> None:
    async def work() -> list[Tenant]:
        seen = [require()]
        await asyncio.sleep(0)
        return [*seen, require()]

    with use(UK):
        carried = carry(work)
    with use(AUS):
        assert await carried() == [UK, UK]
        assert require() is AUS


async def test_a_callback_of_the_loop_has_the_tenant_of_the_block() -> None:
    found: list[Tenant | None] = []
    loop = asyncio.get_running_loop()
    with use(UK):
        loop.call_soon(lambda: found.append(current()))
        loop.call_later(0.001, lambda: found.append(current()))
    await asyncio.sleep(0.02)
    assert found == [UK, UK]


# Generators


def test_a_carried_generator_is_under_its_tenant_at_each_step_and_nowhere_else() -> None:
    closed: list[Tenant | None] = []

    def rows() -> Iterator[Tenant]:
        try:
            for _ in range(3):
                yield require()
        finally:
            closed.append(current())

    with use(UK):
        carried = carry(rows)
    with use(AUS):
        seen = []
        for row in carried():
            seen.append(row)
            assert require() is AUS
        assert seen == [UK] * 3
        steps = carried()
        next(steps)
        steps.close()  # type: ignore[attr-defined]
    assert closed == [UK, UK]


def test_200_generators_begun_under_one_tenant_and_consumed_under_another() -> None:
    def rows() -> Iterator[str]:
        for _ in range(3):
            yield require().id

    wrong = 0
    for number in range(200):
        mine, other = random.Random(number).sample([UK, AUS, EU], 2)
        with use(mine):
            carried = carry(rows)
            steps = carried()
            first = next(steps)
        with use(other):
            wrong += {first, *steps} != {mine.id}
    assert wrong == 0


async def test_a_carried_asynchronous_generator() -> None:
    closed: list[Tenant | None] = []

    async def rows() -> AsyncIterator[Tenant]:
        try:
            for _ in range(3):
                await asyncio.sleep(0)
                yield require()
        finally:
            closed.append(current())

    with use(UK):
        carried = carry(rows)
    with use(AUS):
        async for row in carried():
            assert row is UK
            assert require() is AUS
        steps = carried()
        await steps.__anext__()
        await steps.aclose()  # type: ignore[attr-defined]
        assert require() is AUS
    assert closed == [UK, UK]


async def test_a_block_left_open_by_an_abandoned_generator_changes_nothing() -> None:
    """Its end runs whenever the collector or the loop gets to it, in another context."""

    async def rows() -> AsyncIterator[Tenant]:
        with use(UK):
            yield require()

    async def begin() -> None:
        async for _ in rows():
            break

    with use(AUS):
        await contextvars.copy_context().run(asyncio.create_task, forgotten(begin))
        gc.collect()
        await asyncio.sleep(0.01)
        assert require() is AUS


async def forgotten(begin: Callable[[], Any]) -> None:
    with nobody():
        await begin()


def test_entering_and_leaving_costs_less_than_5_microseconds() -> None:
    # Short bursts, for on a shared machine the best one is the one that nobody interrupted.
    rounds, best = 100, float("inf")
    for _ in range(300):
        start = time.perf_counter()
        for _ in range(rounds):
            with use(UK):
                pass
        best = min(best, (time.perf_counter() - start) / rounds)
    assert best < 5e-6
