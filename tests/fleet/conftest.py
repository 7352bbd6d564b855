"""Fleets on every kind of server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tenantry.testing.address import ServerAddress
from tests.fleet.fleets import KINDS, Fleet, fleet_of


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: at the size of the promise; runs with `-m long`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long ones out, unless they are asked for."""
    if "long" in str(config.getoption("markexpr")):
        return
    left_out = [item for item in items if item.get_closest_marker("long") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


MakeFleet = Callable[..., Fleet]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Isolation and server kind."""
    named: str = request.param
    return named


@pytest.fixture
def address(kind: str, request: pytest.FixtureRequest) -> ServerAddress | None:
    if kind == "sqlite":
        return None
    found: ServerAddress = request.getfixturevalue(kind.partition("-")[0])
    return found


@pytest.fixture
def make_fleet(kind: str, address: ServerAddress | None, tmp_path: Path) -> Iterator[MakeFleet]:
    """``make_fleet(count)``; dropped at the end."""
    with ExitStack() as stack:

        def make(count: int, *, make: bool = True) -> Fleet:
            return stack.enter_context(fleet_of(kind, count, tmp_path, address, make=make))

        yield make
