"""Ad-hoc work in many tenants, and its journal: what was killed goes on, nothing is done twice."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tenantry import Tenant
from tenantry.errors import CallerError
from tenantry.fleet import Journal, Selection, call, run_program, sql
from tests.canary import CANARY
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import Fleet, fleet_of, kill

FUNCTION = """
import time
from pathlib import Path

def slowly(tenant):
    file = Path(__file__).with_name("calls.txt")
    with file.open("a") as calls:
        calls.write(tenant.id + "\\n")
    time.sleep(0.4)
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_of("sqlite", 6, tmp_path, None) as made:
        for each in made.ids:
            made.execute(each, "CREATE TABLE notes (body TEXT)")
        yield made


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as made:
        yield made


def open_journals(folder: Path, rounds: int, together: Any) -> None:
    """In a process of its own: the first look at a new journal, with others at the same moment."""
    for number in range(rounds):
        together.wait(timeout=60)
        with Journal(folder / f"{number}" / "journal.db") as journal:
            journal.end(journal.begin("migrate", "head"), "done")


def test_many_processes_may_open_a_new_journal_at_once(tmp_path: Path) -> None:
    """Nobody fails over what another has just made."""
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(4)
    processes = [
        spawn.Process(target=open_journals, args=(tmp_path, 60, together)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * 4


def statuses(journal: Journal) -> dict[str, str]:
    """Of the latest run."""
    return {item["tenant"]: item["status"] for item in journal.items(journal.runs()[0])}


def test_what_failed_is_gone_on_with_and_what_is_done_is_not_done_again(
    fleet: Fleet, journal: Journal
) -> None:
    fleet.execute("t003", "ALTER TABLE notes RENAME TO hidden")
    everybody = Selection().of(fleet.tenancy.tenants())
    statement = "INSERT INTO notes VALUES ('one')"

    def again(*, resume: bool) -> list[str]:
        report = sql(fleet.tenancy, statement, tenants=everybody, journal=journal, resume=resume)
        return [each.status for each in sorted(report.outcomes, key=lambda each: each.tenant_id)]

    assert again(resume=False) == ["done"] * 3 + ["failed"] + ["done"] * 2
    assert journal.runs()[0].state == "stopped"
    assert statuses(journal)["t003"] == "failed"
    fleet.execute("t003", "ALTER TABLE hidden RENAME TO notes")
    assert again(resume=True) == ["unchanged"] * 3 + ["done"] + ["unchanged"] * 2
    (run,) = journal.runs()
    assert (run.verb, run.state) == ("sql", "done")
    assert set(statuses(journal).values()) == {"done"}
    for each in fleet.ids:
        assert fleet.rows(each, "SELECT body FROM notes") == [("one",)]
    with pytest.raises(CallerError, match="nothing to resume"):
        again(resume=True)
    assert again(resume=False) == ["done"] * 6  # on purpose, in all of them
    assert fleet.rows("t000", "SELECT count(*) FROM notes") == [(2,)]


def test_a_new_run_leaves_the_old_one_for_good(fleet: Fleet, journal: Journal) -> None:
    everybody = Selection().of(fleet.tenancy.tenants())
    failing = "INSERT INTO nothing VALUES (1)"
    for _ in range(2):
        sql(fleet.tenancy, failing, tenants=everybody, journal=journal)
    assert sorted(run.state for run in journal.runs()) == ["left", "stopped"]


def test_no_value_of_a_statement_or_an_argument_is_in_the_journal(
    fleet: Fleet, journal: Journal, tmp_path: Path
) -> None:
    everybody = Selection().of(fleet.tenancy.tenants())
    sql(
        fleet.tenancy,
        f"INSERT INTO notes VALUES ('{CANARY}')",
        tenants=everybody,
        journal=journal,
    ).raise_if_failed()
    run_program(
        fleet.tenancy, ["true", CANARY], tenants=everybody, journal=journal
    ).raise_if_failed()
    assert sorted(run.key.split()[0] for run in journal.runs()) == ["INSERT", "true"]
    journal.close()
    files = list(tmp_path.glob("journal.db*"))
    assert files
    assert not any(CANARY.encode() in file.read_bytes() for file in files)


def test_a_function_and_a_dry_run(fleet: Fleet, journal: Journal) -> None:
    everybody = Selection().of(fleet.tenancy.tenants())

    def name(tenant: Tenant) -> str:
        before = fleet.ids[: fleet.ids.index(tenant.id)]
        assert statuses(journal) == {**dict.fromkeys(before, "done"), tenant.id: "begun"}
        return tenant.id

    call(fleet.tenancy, name, tenants=everybody, journal=journal, workers=1).raise_if_failed()
    assert statuses(journal) == dict.fromkeys(fleet.ids, "done")
    sql(fleet.tenancy, "DELETE FROM notes", tenants=everybody, journal=journal, dry_run=True)
    assert len(journal.runs()) == 1
    with pytest.raises(CallerError, match="without a journal"):
        call(fleet.tenancy, name, tenants=everybody, resume=True)


def test_a_killed_run_goes_on_and_names_who_is_in_doubt(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "slow_work.py").write_text(FUNCTION, encoding="utf-8")
    calls = tmp_path / "calls.txt"
    arguments = ("run", "slow_work:slowly", "--workers", "1", "--json")
    process = fleet.start(*arguments)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if calls.exists() and len(calls.read_text().split()) == 3:
            break
        time.sleep(0.02)
    kill(process)
    assert process.returncode == -signal.SIGKILL
    done = fleet.run(*arguments, "--resume")
    assert done.returncode == 1, done.stderr
    results = {each["tenant"]: each for each in json.loads(done.stdout)["results"]}
    assert [results[each]["status"] for each in fleet.ids] == [
        *["unchanged"] * 2,
        "failed",
        *["done"] * 3,
    ]
    assert "in doubt" in results["t002"]["error"]
    assert calls.read_text().split() == fleet.ids  # each once
    alone = fleet.run(*arguments, "--tenant", "t002")
    assert alone.returncode == 0, alone.stderr
    assert fleet.run(*arguments, "--resume").returncode == 2
    assert (tmp_path / ".tenantry" / "journal.db").stat().st_size


def test_a_dry_run_ends_nothing(make_fleet: MakeFleet) -> None:
    """Whoever commits within his statement would have done it."""
    fleet = make_fleet(2)
    for each in fleet.ids:
        fleet.execute(each, "CREATE TABLE notes (body VARCHAR(9))", "INSERT INTO notes VALUES (1)")
    everybody = Selection().of(fleet.tenancy.tenants())
    for statement in ("DELETE FROM notes; COMMIT", "/* why */ commit"):
        with pytest.raises(CallerError, match="a dry run is rolled back"):
            sql(fleet.tenancy, statement, tenants=everybody, dry_run=True)
    assert sql(fleet.tenancy, "DELETE FROM notes", tenants=everybody, dry_run=True).ok
    for each in fleet.ids:
        assert fleet.rows(each, "SELECT body FROM notes") == [("1",)]
