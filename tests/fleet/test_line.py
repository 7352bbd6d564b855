"""Items in line for threads: each is done once, and nobody is begun who may not be."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.fleet.line import Line
from tenantry.fleet.runner import Bundled, Outcome, run_all, run_line

Item = tuple[int, str, "int | None"]  # number, group, kind


def line_of(
    items: list[Item], *, per_group: int | None, size: int, failure_budget: int | None = None
) -> Line[Item]:
    return Line(
        items,
        group=lambda item: item[1],
        per_group=per_group,
        alike=lambda item: item[2],
        size=lambda _: size,
        failure_budget=failure_budget,
    )


def done(item: Item) -> Outcome:
    return Outcome(str(item[0]), "done")


@given(
    kinds=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([None, 1, 2])), max_size=30),
    per_group=st.sampled_from([None, 1, 2]),
    size=st.integers(1, 5),
    data=st.data(),
)
def test_every_item_is_given_until_it_is_done(
    kinds: list[tuple[str, int | None]], per_group: int | None, size: int, data: st.DataObject
) -> None:
    items = [(number, *each) for number, each in enumerate(kinds)]
    line = line_of(items, per_group=per_group, size=size)
    out: list[tuple[str, list[Item]]] = []
    ended: list[Item] = []
    while len(ended) < len(items):
        # It waits when no item can be given, so it is only asked when one can.
        busy = Counter(name for name, _ in out)
        free = {each[1] for each in line.left if per_group is None or busy[each[1]] < per_group}
        if free and (not out or data.draw(st.booleans())):
            taken = line.take()
            assert taken is not None
            name, bundle = taken
            assert name in free
            assert {each[1] for each in bundle} == {name}
            assert len(bundle) <= size
            assert len(bundle) == 1 or {each[2] for each in bundle} == {bundle[0][2]} != {None}
            out.append(taken)
        else:
            name, bundle = out.pop(data.draw(st.integers(0, len(out) - 1)))
            finished = data.draw(st.integers(1, len(bundle)))
            ended += bundle[:finished]
            line.done(name, back=bundle[finished:])
    assert sorted(ended) == items
    assert line.take() is None
    assert line.stopped is None


def test_threads_do_each_item_once_and_keep_to_the_limits() -> None:
    items: list[Item] = [(number, "ab"[number % 2], number // 40) for number in range(400)]
    at_work: Counter[str] = Counter()
    most: Counter[str] = Counter()
    lock = threading.Lock()

    def step(bundle: list[Item]) -> Bundled[Item]:
        group = bundle[0][1]
        with lock:
            at_work[group] += 1
            most[group] = max(most[group], at_work[group])
        time.sleep(0.0005)
        with lock:
            at_work[group] -= 1
        kept = bundle[: max(1, len(bundle) // 2)]
        return Bundled([done(each) for each in kept], bundle[len(kept) :])

    report = run_line(line_of(items, per_group=3, size=6), step, workers=8)
    assert sorted(int(each.tenant_id) for each in report.outcomes) == list(range(400))
    assert report.ok
    assert most["a"] <= 3
    assert most["b"] <= 3


@pytest.mark.parametrize("workers", [1, 4])
def test_nobody_is_begun_once_the_budget_is_spent(workers: int) -> None:
    begun: list[int] = []

    def step(number: int) -> Outcome:
        begun.append(number)
        return Outcome(str(number), "failed" if number >= 10 else "done")

    report = run_all(range(500), step, workers=workers, failure_budget=2)
    assert report.stopped == "failures"
    # With the last of the three that end it, as many as the other workers may be under way.
    assert 3 <= len(report.of("failed")) <= 3 + workers - 1
    assert len(begun) == len(report.outcomes)


def test_who_was_last_is_no_reason_to_stop() -> None:
    report = run_all(range(3), lambda number: Outcome(str(number), "failed"), failure_budget=2)
    assert report.stopped is None
    report = run_all([1], lambda number: Outcome(str(number), "failed"), failure_budget=0)
    assert report.stopped is None


def test_an_error_of_a_step_ends_the_work() -> None:
    begun: list[int] = []

    def step(number: int) -> Outcome:
        begun.append(number)
        if number == 5:
            raise ZeroDivisionError
        time.sleep(0.001)
        return Outcome(str(number), "done")

    with pytest.raises(ZeroDivisionError):
        run_all(range(1000), step, workers=4)
    assert len(begun) < 1000


def test_an_error_of_who_listens_ends_the_work() -> None:
    begun: list[int] = []

    def step(number: int) -> Outcome:
        begun.append(number)
        return Outcome(str(number), "done")

    def listen(outcome: Outcome) -> None:
        if outcome.tenant_id == "3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(range(1000), step, workers=2, on_outcome=listen)
    assert len(begun) <= 4 + 2 * 2


def test_who_listens_is_not_left_behind() -> None:
    begun: list[int] = []
    ahead: list[int] = []
    thread: set[int] = set()

    def step(number: int) -> Outcome:
        begun.append(number)
        return Outcome(str(number), "done")

    def listen(_: Outcome) -> None:
        time.sleep(0.002)
        thread.add(threading.get_ident())
        ahead.append(len(begun) - len(ahead))

    run_all(range(60), step, workers=3, on_outcome=listen)
    assert max(ahead) <= 2 * 3
    assert thread == {threading.get_ident()}


def test_an_error_of_the_question_whether_to_go_on_ends_the_work() -> None:
    def keep_on() -> bool:
        raise OSError("the journal is gone")

    with pytest.raises(OSError, match="journal"):
        run_all(range(9), lambda number: Outcome(str(number), "done"), keep_on=keep_on)
