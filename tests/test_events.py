"""Who listens hears everything, and cannot break what it watches."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Iterator

import pytest

from tenantry import Placement, Tenant, events, shared, use

UK = Tenant("uk", Placement("eu"))


@pytest.fixture
def heard() -> Iterator[list[events.Event]]:
    found: list[events.Event] = []
    stop = events.listen(found.append)
    yield found
    stop()


def test_entering_and_leaving_is_told(heard: list[events.Event]) -> None:
    with use(UK), shared():
        pass
    with shared():
        pass
    assert heard == [
        events.TenantEntered("uk"),
        events.SharedEntered("uk"),
        events.TenantLeft("uk"),
        events.SharedEntered(None),
    ]


def test_a_listener_may_leave_and_come_twice() -> None:
    found: list[events.Event] = []
    stop = events.listen(found.append)
    assert events.listening()
    events.emit(events.TenantEntered("uk"))
    stop()
    stop()
    events.emit(events.TenantEntered("uk"))
    assert len(found) == 1


def test_a_broken_listener_breaks_nothing(
    heard: list[events.Event], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: events.Event) -> None:
        raise RuntimeError("no")

    stop = events.listen(broken)
    try:
        with caplog.at_level(logging.ERROR), use(UK):
            pass
    finally:
        stop()
    assert "TenantEntered" in caplog.text
    assert heard == [events.TenantEntered("uk"), events.TenantLeft("uk")]


def test_listeners_come_and_go_in_many_threads(heard: list[events.Event]) -> None:
    def work() -> None:
        for _ in range(200):
            events.listen(lambda _: None)()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    events.emit(events.Refused("uk", "NoTenantError"))
    assert heard == [events.Refused("uk", "NoTenantError")]


PLAIN = ("str", "int", "float", "bool", "tuple[str, ...]")


def test_events_are_frozen_records_of_plain_values() -> None:
    for name in events.__all__:
        kind = getattr(events, name)
        if isinstance(kind, type):
            assert dataclasses.is_dataclass(kind)
            assert issubclass(kind, events.Event)
            kinds = {field.type for field in dataclasses.fields(kind)}
            assert kinds <= {
                "str",
                "str | None",
                "float",
                "int",
                "bool",
                "int | None",
                "tuple[str, ...]",
            }
