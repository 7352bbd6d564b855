"""Every route by which a guest of a Superset dashboard gets rows, and how rows are read off it."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tenantry.errors import ConfigurationError
from tenantry.integrations.superset.guest import Guest

if TYPE_CHECKING:
    import httpx

Rows = tuple[tuple[str, ...], ...]
Ask = Callable[[Guest, bool], "httpx.Response"]

STREAMING_ROWS = 100_000
"""Superset's ``CSV_STREAMING_ROW_THRESHOLD``: an export of so many rows is streamed."""


@dataclass(frozen=True)
class Route:
    """One way to rows. *ask* sends a request, past the caches where its second argument is true.

    *truth* names another route whose forced answer says what this one must show, for those
    that cannot be forced. *get* says that an HTTP cache could keep the answer, *warms* that a
    visitor's page asks for the same.
    """

    name: str
    ask: Ask
    read: Callable[[httpx.Response], Rows]
    truth: str | None = None
    get: bool = False
    warms: bool = False


@dataclass
class Dashboard:
    """What a dashboard shows: its charts with their saved queries, and its filters."""

    id: int
    embedded: str
    charts: list[dict[str, Any]] = field(default_factory=list)
    filters: list[dict[str, Any]] = field(default_factory=list)


def read_dashboard(staff: Callable[[str], Mapping[str, Any]], embedded: str) -> Dashboard:
    """The dashboard with the embedding id *embedded*, asked for by a staff account.

    Raises:
        ConfigurationError: It has no chart with a saved query.
    """
    found = staff(f"/api/v1/embedded_dashboard/{embedded}")["result"]
    dashboard = Dashboard(int(found["dashboard_id"]), embedded)
    metadata = staff(f"/api/v1/dashboard/{dashboard.id}")["result"].get("json_metadata") or "{}"
    dashboard.filters = json.loads(metadata).get("native_filter_configuration", [])
    for each in staff(f"/api/v1/dashboard/{dashboard.id}/charts")["result"]:
        chart = dict(staff(f"/api/v1/chart/{each['id']}")["result"])
        if chart.get("query_context"):
            chart["id"] = each["id"]
            chart["context"] = json.loads(chart["query_context"])
            dashboard.charts.append(chart)
    if not dashboard.charts:
        raise ConfigurationError("no chart of the dashboard has a saved query; save one again")
    return dashboard


def routes(dashboard: Dashboard) -> Iterator[Route]:
    """All routes of a dashboard."""
    datasets: dict[int, dict[str, Any]] = {}
    for chart in dashboard.charts:
        yield from _chart_routes(dashboard, chart)
        datasets.setdefault(int(chart["context"]["datasource"]["id"]), chart)
    for dataset, chart in datasets.items():
        yield from _dataset_routes(dashboard, dataset, chart)
    for each in dashboard.filters:
        for target in each.get("targets", ()):
            if "datasetId" in target:
                yield _filter_values(dashboard, each, target)
    yield _filter_state(dashboard)


def _chart_routes(dashboard: Dashboard, chart: Mapping[str, Any]) -> Iterator[Route]:
    name = chart["slice_name"]

    def body(force: bool, result_format: str, **form: Any) -> dict[str, Any]:
        context: dict[str, Any] = json.loads(json.dumps(chart["context"]))
        context |= {"force": force, "result_format": result_format, "result_type": "full"}
        context["form_data"] = {
            **context.get("form_data", {}),
            "slice_id": chart["id"],
            "dashboardId": dashboard.id,
            **form,
        }
        return context

    def data(result_format: str, **form: Any) -> Ask:
        path = f"/api/v1/chart/data?dashboard_id={dashboard.id}"
        return lambda guest, force: guest("POST", path, json=body(force, result_format, **form))

    def form_post(guest: Guest, force: bool) -> httpx.Response:
        return guest.form("/api/v1/chart/data", {"form_data": json.dumps(body(force, "csv"))})

    yield Route(f"{name}: json", data("json"), json_rows, warms=True)
    yield Route(f"{name}: csv", data("csv"), csv_rows)
    yield Route(f"{name}: xlsx", data("xlsx"), xlsx_rows)
    yield Route(f"{name}: csv form", form_post, csv_rows)
    yield Route(
        f"{name}: csv streaming",
        data("csv", row_limit=STREAMING_ROWS),
        csv_rows,
        truth=f"{name}: csv",
    )
    yield Route(
        f"{name}: saved",
        lambda guest, force: guest(
            "GET", f"/api/v1/chart/{chart['id']}/data/?force={str(force).lower()}"
        ),
        json_rows,
        get=True,
    )


def _dataset_routes(
    dashboard: Dashboard, dataset: int, chart: Mapping[str, Any]
) -> Iterator[Route]:
    name = f"dataset {dataset}"
    columns = [
        each
        for query in chart["context"]["queries"]
        for each in query.get("columns", ())
        if isinstance(each, str)
    ]
    source = f"datasource_id={dataset}&datasource_type=table&dashboard_id={dashboard.id}"
    access = {"dashboardId": dashboard.id, "slice_id": chart["id"]}

    def samples(**body: Any) -> Ask:
        return lambda guest, force: guest(
            "POST", f"/datasource/samples?{source}&force={str(force).lower()}", json=body
        )

    yield Route(f"{name}: samples", samples(), samples_rows)
    if columns:
        drill = {"filters": [{"col": columns[-1], "op": "IS NOT NULL"}]}
        yield Route(f"{name}: drill to detail", samples(**drill), samples_rows)
    form = {
        "datasource": f"{dataset}__table",
        "viz_type": "para",
        "series": columns[-1] if columns else None,
        "metrics": [{"expressionType": "SQL", "sqlExpression": "COUNT(*)", "label": "n"}],
        "adhoc_filters": [],
        "time_range": "No filter",
        "row_limit": 1000,
        **access,
    }
    if not columns:
        return
    text = json.dumps(form)
    yield Route(
        f"{name}: explore_json POST",
        lambda guest, force: guest(
            "POST",
            f"/superset/explore_json/?force={str(force).lower()}",
            data={"form_data": text},
        ),
        viz_rows,
    )
    yield Route(
        f"{name}: explore_json GET",
        lambda guest, force: guest("GET", f"/superset/explore_json/?form_data={quote(text)}"),
        viz_rows,
        truth=f"{name}: explore_json POST",
        get=True,
    )
    column = quote(columns[-1])
    yield Route(
        f"{name}: column values",
        lambda guest, force: guest(
            "GET", f"/api/v1/datasource/table/{dataset}/column/{column}/values/"
        ),
        list_rows,
        get=True,
    )


def _filter_values(
    dashboard: Dashboard, each: Mapping[str, Any], target: Mapping[str, Any]
) -> Route:
    dataset, column = target["datasetId"], target["column"]["name"]

    def ask(guest: Guest, force: bool) -> httpx.Response:
        body = {
            "datasource": {"id": dataset, "type": "table"},
            "force": force,
            "queries": [{"columns": [column], "metrics": [], "row_limit": 1000, "filters": []}],
            "form_data": {
                "datasource": f"{dataset}__table",
                "viz_type": "filter_select",
                "type": "NATIVE_FILTER",
                "native_filter_id": each["id"],
                "dashboardId": dashboard.id,
                "groupby": [column],
            },
            "result_format": "json",
            "result_type": "full",
        }
        return guest("POST", f"/api/v1/chart/data?dashboard_id={dashboard.id}", json=body)

    return Route(f"filter {each.get('name') or each['id']}: values", ask, json_rows, warms=True)


def _filter_state(dashboard: Dashboard) -> Route:
    """What a guest chose is stored, and read again: the same tab number for every tenant."""
    keys: dict[str, str] = {}
    path = f"/api/v1/dashboard/{dashboard.id}/filter_state"

    def ask(guest: Guest, force: bool) -> httpx.Response:
        if force:
            body = {"value": json.dumps({"chosen by": guest.tenant_id})}
            answer = guest("POST", f"{path}?tab_id=1", json=body)
            if answer.status_code >= 400:
                return answer
            keys[guest.tenant_id] = answer.json()["key"]
        return guest("GET", f"{path}/{keys.get(guest.tenant_id, 'none')}")

    return Route("filter state", ask, lambda answer: ((str(answer.json()["value"]),),), get=True)


def _table(records: Any) -> Rows:
    return tuple(sorted(tuple(str(value) for value in each.values()) for each in records))


def json_rows(answer: httpx.Response) -> Rows:
    """The rows of chart data as JSON."""
    return tuple(row for result in answer.json()["result"] for row in _table(result["data"]))


def csv_rows(answer: httpx.Response) -> Rows:
    """The rows of a CSV file without its first line."""
    text = answer.content.decode("utf-8-sig")
    if "__STREAM_ERROR__" in text:
        raise ValueError("the stream ended with an error")
    return tuple(sorted(tuple(row) for row in list(csv.reader(io.StringIO(text)))[1:]))


def xlsx_rows(answer: httpx.Response) -> Rows:
    """The texts and numbers of a spreadsheet."""
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        parts = [name for name in archive.namelist() if re.match(r"xl/(sharedS|worksheets/)", name)]
        content = "".join(archive.read(name).decode() for name in sorted(parts))
    return tuple(sorted((value,) for value in re.findall(r"<(?:t|v)[^>]*>([^<]*)<", content)))


def samples_rows(answer: httpx.Response) -> Rows:
    """The rows of samples."""
    return _table(answer.json()["result"]["data"])


def viz_rows(answer: httpx.Response) -> Rows:
    """The rows of a chart of the older kind."""
    return _table(answer.json()["data"])


def list_rows(answer: httpx.Response) -> Rows:
    """The values of a column."""
    return tuple(sorted((str(value),) for value in answer.json()["result"]))
