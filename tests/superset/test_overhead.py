"""What the adapter costs a warm chart request, and how many connections it opens."""

from __future__ import annotations

from pathlib import Path

from tests.superset.conftest import Running, ran_inside

CHARTS = ("sales", "sales_plain", "sales_named", "sales_article")


def measured(running: Running) -> dict[str, dict[str, float]]:
    requests = {name: running.chart_body(name) for name in CHARTS}
    asked = {"requests": requests, "token": running.token("uk"), "times": 20}
    found: dict[str, dict[str, float]] = ran_inside(
        running, Path(__file__).with_name("measure.py"), asked
    )
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
