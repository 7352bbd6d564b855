"""A routed database, datasets, charts, a dashboard and its embedding, over Superset's REST.

What an administrator would click together once; no tenant is named anywhere in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx
from typing_extensions import Self

from tenantry.integrations.superset.account import Account, send

UNROUTABLE = "postgresql+psycopg2://nobody@tenant.invalid/none"
"""What Superset has as the address: gives the kind of SQL, and reaches nothing (RFC 2606)."""

DATASETS: dict[str, str | None] = {
    "sales": None,
    "sales_plain": "SELECT id, region, product, amount, lat, lon, sold_on FROM sales",
    "sales_named": (
        "SELECT '{{ tenant() }}' AS tenant, id, region, product, amount, lat, lon, sold_on "
        "FROM sales"
    ),
    "sales_article": (
        "SELECT '{{ current_username() }}' AS db, id, region, product, amount, lat, lon, sold_on "
        "FROM sales"
    ),
}


class Rest:
    """Superset's REST interface in an account's name; what is refused is an error.

    A context manager, which closes the connection.
    """

    def __init__(self, url: str, username: str, password: str) -> None:
        self._account = Account(url, username, password)
        self._client = httpx.Client(timeout=120)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def __call__(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        response = send(self._client, self._account.request(method, path, **content))
        if response.status_code >= 400:
            raise RuntimeError(f"{method} {path}: {response.status_code} {response.text[:600]}")
        answer: dict[str, Any] = response.json()
        return answer


@dataclass(frozen=True)
class Provisioned:
    """What was made: ids by name, and the dashboard's embedding id."""

    database: int
    datasets: dict[str, int]
    charts: dict[str, int]
    dashboard: int
    embedded: str


def provision(
    rest: Rest,
    *,
    address: str = UNROUTABLE,
    datasets: dict[str, str | None] = DATASETS,
    domains: tuple[str, ...] = (),
    engine_params: dict[str, Any] | None = None,
    without: dict[str, str] | None = None,
    title: str = "Sales",
) -> Provisioned:
    """Make everything; *domains* are those that may embed the dashboard, empty for any.

    *without* says what stands in SQL for what a Superset without tenantry does not know.
    """
    database = rest(
        "POST",
        "/api/v1/database/",
        json={
            "database_name": title,
            "sqlalchemy_uri": address,
            "expose_in_sqllab": True,
            "extra": json.dumps({"engine_params": engine_params or {}}),
        },
    )["id"]
    made = {}
    for name, sql in datasets.items():
        for ours, theirs in (without or {}).items():
            sql = sql.replace(ours, theirs) if sql else sql
        made[name] = _dataset(rest, database, name, sql)
    charts: dict[str, int] = {}
    for name, dataset in made.items():
        charts[f"{name} table"] = _chart(rest, f"{name} table", dataset, _table())
    first = made[next(iter(made))]
    charts["total"] = _chart(rest, "Total amount", first, _total())
    charts["amounts"] = _chart(rest, "Amount by product", first, _pie())
    dashboard = _dashboard(rest, title, charts, first)
    embedded = rest(
        "POST", f"/api/v1/dashboard/{dashboard}/embedded", json={"allowed_domains": list(domains)}
    )["result"]["uuid"]
    return Provisioned(database, made, charts, dashboard, embedded)


def _dataset(rest: Rest, database: int, name: str, sql: str | None) -> int:
    body: dict[str, Any] = {"database": database, "table_name": name}
    if sql is not None:
        body["sql"] = sql
    made: int = rest("POST", "/api/v1/dataset/", json=body)["id"]
    return made


def _chart(rest: Rest, name: str, dataset: int, both: tuple[dict[str, Any], dict[str, Any]]) -> int:
    form, query = both
    form = {"datasource": f"{dataset}__table", "time_range": "No filter", **form}
    context = {
        "datasource": {"id": dataset, "type": "table"},
        "force": False,
        "queries": [query],
        "form_data": form,
        "result_format": "json",
        "result_type": "full",
    }
    made: int = rest(
        "POST",
        "/api/v1/chart/",
        json={
            "slice_name": name,
            "viz_type": form["viz_type"],
            "datasource_id": dataset,
            "datasource_type": "table",
            "params": json.dumps(form),
            "query_context": json.dumps(context),
        },
    )["id"]
    return made


_AMOUNT = {
    "expressionType": "SIMPLE",
    "column": {"column_name": "amount"},
    "aggregate": "SUM",
    "label": "amount",
}


def _table() -> tuple[dict[str, Any], dict[str, Any]]:
    columns = ["region", "product", "amount"]
    return (
        {
            "viz_type": "table",
            "query_mode": "raw",
            "all_columns": columns,
            "adhoc_filters": [],
            "row_limit": 1000,
            "server_page_length": 10,
        },
        {"columns": columns, "metrics": [], "row_limit": 1000, "orderby": [], "filters": []},
    )


def _total() -> tuple[dict[str, Any], dict[str, Any]]:
    return (
        {"viz_type": "big_number_total", "metric": _AMOUNT, "adhoc_filters": []},
        {"columns": [], "metrics": [_AMOUNT], "filters": []},
    )


def _pie() -> tuple[dict[str, Any], dict[str, Any]]:
    return (
        {
            "viz_type": "pie",
            "groupby": ["product"],
            "metric": _AMOUNT,
            "adhoc_filters": [],
            "row_limit": 100,
            "sort_by_metric": True,
            "show_legend": False,
        },
        {
            "columns": ["product"],
            "metrics": [_AMOUNT],
            "filters": [],
            "row_limit": 100,
            "orderby": [[_AMOUNT, False]],
        },
    )


def _dashboard(rest: Rest, title: str, charts: dict[str, int], dataset: int) -> int:
    shown = [charts["total"], charts["amounts"], next(iter(charts.values()))]
    dashboard: int = rest("POST", "/api/v1/dashboard/", json={"dashboard_title": title})["id"]
    for chart in charts.values():
        rest("PUT", f"/api/v1/chart/{chart}", json={"dashboards": [dashboard]})
    row = {
        f"CHART-{chart}": {
            "type": "CHART",
            "id": f"CHART-{chart}",
            "children": [],
            "parents": ["ROOT_ID", "GRID_ID", "ROW-1"],
            "meta": {"chartId": chart, "width": 4, "height": 50},
        }
        for chart in shown
    }
    position: dict[str, Any] = {
        "DASHBOARD_VERSION_KEY": "v2",
        "ROOT_ID": {"type": "ROOT", "id": "ROOT_ID", "children": ["GRID_ID"]},
        "GRID_ID": {"type": "GRID", "id": "GRID_ID", "children": ["ROW-1"], "parents": ["ROOT_ID"]},
        "ROW-1": {
            "type": "ROW",
            "id": "ROW-1",
            "children": list(row),
            "parents": ["ROOT_ID", "GRID_ID"],
            "meta": {"background": "BACKGROUND_TRANSPARENT"},
        },
        **row,
    }
    by_product = {
        "id": "NATIVE_FILTER-product",
        "name": "Product",
        "filterType": "filter_select",
        "type": "NATIVE_FILTER",
        "targets": [{"datasetId": dataset, "column": {"name": "product"}}],
        "controlValues": {"multiSelect": True, "enableEmptyFilter": False},
        "defaultDataMask": {"extraFormData": {}, "filterState": {}},
        "scope": {"rootPath": ["ROOT_ID"], "excluded": []},
        "cascadeParentIds": [],
    }
    rest(
        "PUT",
        f"/api/v1/dashboard/{dashboard}",
        json={
            "published": True,
            "position_json": json.dumps(position),
            "json_metadata": json.dumps(
                {"native_filter_configuration": [by_product], "refresh_frequency": 0}
            ),
        },
    )
    return dashboard
