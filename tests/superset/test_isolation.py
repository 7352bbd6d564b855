"""Every route a guest can reach, ours and the article's: the same checks, so that they bite."""

from __future__ import annotations

import pytest

from examples.superset.environment import NEWEST, RELEASE
from tests.superset.conftest import Running


def test_nothing_leaks_on_any_route(ours: Running) -> None:
    report = ours.checked()
    print(f"\nours: {dict(report.counts())}")
    assert report.clean, [each for each in report.findings if each.status not in ("ok", "refused")]
    assert report.counts()["ok"] > 500
    asked = " ".join(report.by_route())
    for kind in (
        *("json", "csv", "xlsx", "csv form", "csv streaming", "samples", "drill to detail"),
        *("explore_json POST", "explore_json GET", "filter Product: values", "filter state"),
    ):
        assert kind in asked


@pytest.mark.skipif(RELEASE != NEWEST, reason="before 6.1 no export is streamed")
def test_the_streamed_exports_were_streamed(ours: Running) -> None:
    assert "Streaming CSV completed" in ours.superset.log.read_text()


def test_the_same_checks_find_the_leaks_of_the_article_s_code(article: Running) -> None:
    report = article.checked()
    print(f"\nthe article's code, corrected: {dict(report.counts())}")
    leaking = {each.route for each in report.findings if each.status == "leak"}
    print("\n".join(f"  {route}: {dict(counts)}" for route, counts in report.by_route().items()))
    for route in (
        "sales table: json",
        "sales table: csv",
        "sales table: xlsx",
        "sales table: csv streaming",
        "sales_article table: csv streaming",
        "dataset 1: samples",
        "dataset 1: drill to detail",
        "dataset 1: explore_json POST",
        "dataset 4: explore_json GET",
        "filter Product: values",
        "filter state",
    ):
        assert route in leaking
    # And what the article does protect, it protects.
    assert "sales_article table: json" not in leaking
