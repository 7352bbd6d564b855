"""A migration over a Dask cluster of two processes, by the executor of its client.

Runs in an environment of its own, made once from ``requirements/dask.txt``.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
from pathlib import Path

import pytest

from tests.fleet.fleets import ROOT, fleet_of, project

ENVIRONMENT = ROOT / ".build" / "venv-dask"
COUNT = 12

pytestmark = pytest.mark.newest  # an environment of its own; which one asks does not matter

#: Each tenant notes the process that migrated it, for which the revision has to run live.
REVISIONS = {
    "o1": "op.create_table('seen', sa.Column('process', sa.Integer))",
    "o2": "import os, time\n"
    "time.sleep(0.1)\n"
    "op.get_bind().execute(sa.text(f'INSERT INTO seen VALUES ({os.getpid()})'))",
}
CLUSTER = """
import json, os, sys
from distributed import Client, LocalCluster
from tenantry import Tenancy, fleet

if __name__ == "__main__":
    file, ini = sys.argv[1:]
    tenancy, scripts = Tenancy.from_file(file), fleet.Scripts(ini)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster, Client(cluster) as client:
        processes = sorted(client.run(os.getpid).values())
        source = fleet.Source(file=file)
        with client.get_executor() as executor:
            report = fleet.migrate_tenants(
                tenancy, scripts, executor=executor, source=source, workers=4
            )
            again = fleet.migrate_tenants(tenancy, scripts, executor=executor, source=source)
    print(json.dumps({
        "mine": os.getpid(),
        "processes": processes,
        "done": [each.tenant_id for each in report.of("done")],
        "failed": [each.error for each in report.of("failed")],
        "again": [each.status for each in again.outcomes],
    }))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with (ENVIRONMENT.parent / "venv-dask.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(
            [ROOT / ".ci" / "venv", ENVIRONMENT, "requirements/dask.txt"], cwd=ROOT, check=True
        )
    return ENVIRONMENT / "bin" / "python"


@pytest.mark.timeout(600)  # the first run makes the environment
def test_two_processes_of_a_dask_cluster_share_the_work(python: Path, tmp_path: Path) -> None:
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER, encoding="utf-8")
    with fleet_of("sqlite", COUNT, tmp_path, None) as fleet:
        ini = project(tmp_path, REVISIONS)
        done = subprocess.run(
            [python, str(script), str(fleet.file), str(ini)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout.strip().splitlines()[-1])
        assert said["failed"] == []
        assert sorted(said["done"]) == fleet.ids
        assert said["again"] == ["unchanged"] * COUNT
        seen = [fleet.rows(each, "SELECT process FROM seen") for each in fleet.ids]
        assert all(len(rows) == 1 for rows in seen)  # and nothing was applied twice
        workers = sorted({rows[0][0] for rows in seen})
        assert workers == said["processes"]
        assert len(workers) == 2
        assert said["mine"] not in workers
