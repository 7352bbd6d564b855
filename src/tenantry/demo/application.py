"""The demonstration's web application: written for one shop, serving several."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, make_response, render_template, request
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from werkzeug.exceptions import HTTPException

from ..integrations.flask import Tenantry, current_tenant
from ..resolvers import all_agree, from_header, from_query, from_subdomain
from ..tenancy import Tenancy
from .orders import SHOPS, Order

__all__ = ["create_app"]

HEADER = "X-Tenant"

# How each resolver names itself, and what that is to a visitor.
_SOURCES = {
    "subdomain": "the host name",
    f"header {HEADER}": f"the header {HEADER}",
    "query tenant": "the argument ?tenant=",
}


def create_app(tenancy: Tenancy) -> Flask:
    """The application for the tenants of *tenancy*."""
    app = Flask(__name__, static_folder=None)
    tenantry = Tenantry(
        app,
        tenancy=tenancy,
        resolver=all_agree(from_subdomain("localhost"), from_header(HEADER), from_query("tenant")),
    )

    @app.get("/")
    def orders() -> Response:
        listed = tenantry.session.scalars(select(Order).order_by(Order.id)).all()
        shop = SHOPS[current_tenant.id]
        return _answer(
            {
                "tenant": current_tenant.id,
                "title": current_tenant.attributes["title"],
                "named_by": request.environ["tenantry.source"],
                "because": _SOURCES[request.environ["tenantry.source"]],
                "server": current_tenant.placement.server,
                "database": _database(tenantry.session),
                "orders": [
                    {
                        "number": order.id,
                        "placed_on": order.placed_on.isoformat(),
                        "customer": order.customer,
                        "item": order.item,
                        "price": _money(order.cents, shop.currency),
                    }
                    for order in listed
                ],
                "total": _money(sum(order.cents for order in listed), shop.currency),
            }
        )

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        return _answer(
            {"error": error.description, "status": error.code, "title": error.name}, error.code
        )

    return app


def _answer(content: dict[str, Any], status: int | None = 200) -> Response:
    """A page for a browser, JSON for everybody else."""
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) != "text/html":
        return make_response(content, status)
    shops = {tenant_id: shop for tenant_id, shop in SHOPS.items() if not shop.suspended}
    closed = [tenant_id for tenant_id, shop in SHOPS.items() if shop.suspended]
    port = request.host.rpartition(":")[2]
    page = render_template(
        "page.html", answer=content, shops=shops, closed=closed, port=port, header=HEADER
    )
    return make_response(page, status)


def _database(session: Session) -> str:
    """What the database itself says it is: the proof that the connection went there."""
    if session.get_bind().dialect.name == "sqlite":
        file = session.execute(text("PRAGMA database_list")).one().file
        return str(file).rpartition("/")[2].rpartition("\\")[2]
    return str(session.scalar(text("SELECT current_database()")))


def _money(cents: int, currency: str) -> str:
    return f"{currency}{cents / 100:,.2f}"
