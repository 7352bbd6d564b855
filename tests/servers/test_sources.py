"""What was fetched for the tests is whole, or is fetched anew; what is missing is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tenantry.errors import MissingDependencyError
from tests.servers.sources import Installation, keep

PROGRAMS = [("serverd", "server"), ("prepare",)]

Unpacked = Callable[..., Path]


@pytest.fixture
def unpacked(tmp_path: Path) -> Unpacked:
    """Makes a folder with programs, as packages are unpacked."""

    def make(folder: str, *programs: str) -> Path:
        binaries = tmp_path / folder / "usr" / "bin"
        binaries.mkdir(parents=True)
        for program in programs:
            (binaries / program).write_text(f"#!/bin/sh\necho {folder}\n")
            (binaries / program).chmod(0o755)
        return tmp_path / folder

    return make


def test_each_program_counts_under_one_of_its_names(unpacked: Unpacked) -> None:
    assert Installation(unpacked("whole", "server", "prepare")).has(PROGRAMS)
    assert not Installation(unpacked("half", "server")).has(PROGRAMS)


def test_a_link_to_a_program_that_is_not_there_is_none(unpacked: Unpacked) -> None:
    """A package may bring a link into another one, which the machine is said to have."""
    root = unpacked("linked", "prepare")
    (root / "usr" / "bin" / "serverd").symlink_to("elsewhere")
    with pytest.raises(MissingDependencyError, match=f"no serverd or server below {root}"):
        Installation(root).program("serverd", "server")


def test_what_has_lost_a_program_makes_room(unpacked: Unpacked) -> None:
    kept = unpacked("kept", "serverd")
    keep(unpacked("new", "serverd", "prepare"), kept, PROGRAMS)
    assert Installation(kept).has(PROGRAMS)


def test_what_another_run_has_put_there_stays(unpacked: Unpacked) -> None:
    kept = unpacked("kept", "serverd", "prepare")
    keep(unpacked("new", "serverd", "prepare"), kept, PROGRAMS)
    assert "echo kept" in (kept / "usr" / "bin" / "serverd").read_text()


def test_libraries_are_found_wherever_they_were_unpacked(tmp_path: Path) -> None:
    """Also one that has no version behind its name, as libpulse's own."""
    for library in ("one/libx.so.1", "two/libpulsecommon-16.1.so", "three/readme.txt"):
        (tmp_path / library).parent.mkdir()
        (tmp_path / library).touch()
    folders = Installation(tmp_path).environment["LD_LIBRARY_PATH"].split(":")
    assert folders == [str(tmp_path / "one"), str(tmp_path / "two")]
