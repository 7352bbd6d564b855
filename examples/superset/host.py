"""The host application: three log-ins, one page with the embedded dashboard, one route for tokens.

    flask --app examples.superset.host run

The browser never says which tenant it is: the account does, and `guest_token` asks for a token
of the current tenant.
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path

import flask

from tenantry import Placement, Tenant, use
from tenantry.directory import MappingDirectory
from tenantry.integrations.superset import GuestTokens

HERE = Path(__file__).parent
ACCOUNTS = {"alice": "uk", "bruce": "aus", "chloe": "eu"}
"""Who works for whom; a real application has this in its own database."""

DIRECTORY = MappingDirectory(
    Tenant(name, Placement("regions", database=f"sales_{name}")) for name in ACCOUNTS.values()
)

LOG_IN = """<!doctype html><title>Sales</title><link rel=stylesheet href=/static/host.css>
<form method=post action=/login><h1>Sales</h1>
<label>Name <input name=name autofocus></label>
<label>Password <input name=password type=password></label>
<button>Log in</button> <p>{{ said }}</p></form>"""

DASHBOARD = """<!doctype html><title>Sales</title><link rel=stylesheet href=/static/host.css>
<header>Sales <span>{{ name }} of {{ tenant }}</span> <a href=/logout>Log out</a></header>
<main id=dashboard></main>
<script src=/static/embedded-sdk.js></script>
<script>
  supersetEmbeddedSdk.embedDashboard({
    id: {{ embedded|tojson }},
    supersetDomain: {{ superset|tojson }},
    mountPoint: document.getElementById("dashboard"),
    // Asked again by the SDK before a token expires; nothing in the request names a tenant.
    fetchGuestToken: () => fetch("/guest-token", {method: "POST"}).then(answer => answer.text()),
    dashboardUiConfig: {hideTitle: true, filters: {expanded: true}},
  });
</script>"""


def create_app() -> flask.Flask:
    """The application; its settings come from the environment."""
    app = flask.Flask(__name__, static_folder=str(HERE / "static"))
    app.secret_key = os.environ["HOST_SECRET_KEY"]
    app.config["SESSION_COOKIE_SAMESITE"] = "Strict"
    superset = os.environ["SUPERSET_URL"]
    embedded = os.environ["SUPERSET_EMBEDDED"]
    tokens = GuestTokens(superset, "embedder", os.environ["SUPERSET_EMBEDDER_PASSWORD"])

    app.extensions["guest_tokens"] = tokens  # for whoever ends the application: .close()

    @app.get("/")
    def dashboard() -> str:
        name = flask.session.get("name")
        if name not in ACCOUNTS:
            return flask.render_template_string(LOG_IN, said="")
        return flask.render_template_string(
            DASHBOARD, name=name, tenant=ACCOUNTS[name], embedded=embedded, superset=superset
        )

    @app.post("/login")
    def log_in() -> tuple[str, int] | flask.typing.ResponseReturnValue:
        name = flask.request.form.get("name", "")
        password = os.environ.get(f"HOST_PASSWORD_{name.upper()}", "")
        given = flask.request.form.get("password", "")
        if name not in ACCOUNTS or not hmac.compare_digest(password.encode(), given.encode()):
            return flask.render_template_string(LOG_IN, said="Name or password is wrong."), 403
        flask.session["name"] = name
        return flask.redirect("/")

    @app.get("/logout")
    def log_out() -> flask.typing.ResponseReturnValue:
        flask.session.clear()
        return flask.redirect("/")

    @app.post("/guest-token")
    def guest_token() -> tuple[str, int, dict[str, str]]:
        name = flask.session.get("name")
        if name not in ACCOUNTS:
            return "", 401, {}
        with use(DIRECTORY.get(ACCOUNTS[name])):
            token = tokens.token(embedded, person=name)
        return token, 200, {"Content-Type": "text/plain", "Cache-Control": "no-store"}

    return app
