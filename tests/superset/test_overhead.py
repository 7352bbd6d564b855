"""What the adapter costs a warm chart request, and how many connections it opens."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from examples.superset.environment import superset_python
from tests.superset.conftest import Running

CHARTS = ("sales", "sales_plain", "sales_article")


def measured(running: Running) -> dict[str, dict[str, float]]:
    requests: dict[str, dict[str, Any]] = {}
    for name in CHARTS:
        dataset = running.made.datasets[name]
        requests[name] = {
            "datasource": {"id": dataset, "type": "table"},
            "force": False,
            "queries": [{"columns": ["region", "product", "amount"], "metrics": []}],
            "form_data": {
                "datasource": f"{dataset}__table",
                "viz_type": "table",
                "slice_id": running.made.charts[f"{name} table"],
                "dashboardId": running.made.dashboard,
            },
            "result_format": "json",
            "result_type": "full",
        }
    done = subprocess.run(
        [str(superset_python()), str(Path(__file__).with_name("measure.py"))],
        input=json.dumps({"requests": requests, "token": running.token("uk"), "times": 20}),
        env=dict(running.superset.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_warm_request_costs_under_a_millisecond_and_no_connection_more(
    ours: Running, article: Running
) -> None:
    """The article's configuration routes as plain Superset does, so it is the measure."""
    found, plain = measured(ours), measured(article)
    for name in CHARTS:
        print(f"\n{name}: ours {found[name]}, without {plain[name]}")
        assert found[name]["connections"] <= plain[name]["connections"]
        assert found[name]["tenantry_seconds"] < 0.001
