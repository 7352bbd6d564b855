"""A Flask application of many tenants: plain SQLAlchemy, the session of the extension."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    copy_current_request_context,
    g,
    render_template_string,
    request,
    stream_with_context,
)
from flask import (
    session as flask_session,
)
from flask.cli import FlaskGroup
from flask.views import MethodView
from sqlalchemy import text

from tenantry import Tenancy, carry, current, in_shared, require
from tenantry.errors import (
    ConfigurationError,
    NoTenantError,
    TenantMismatchError,
    TenantSwitchError,
    UnknownTenantError,
)
from tenantry.integrations.flask import Tenantry, current_tenant, shared_route
from tenantry.integrations.wsgi import TenantMiddleware
from tenantry.resolvers import first_of, from_path, from_query, from_session
from tests.integrations.places import READ, add_note, notes, serving, tenancy_in


@pytest.fixture
def tenancy(tmp_path: Path) -> Iterator[Tenancy]:
    tenancy = tenancy_in(tmp_path, "uk", "aus", "shut", "moving", max_connections=30)
    yield tenancy
    tenancy.close()


def make(tenancy: Tenancy, **options: Any) -> tuple[Flask, Tenantry]:
    """An application with a view of its notes at ``/``."""
    app = Flask("shop")
    app.secret_key = "only a test"
    app.testing = True
    options.setdefault("resolver", from_query())
    tenantry = Tenantry(app, tenancy=tenancy, **options)

    @app.get("/")
    def index() -> str:
        return ",".join(tenantry.session.scalars(READ))

    return app, tenantry


def test_each_request_reads_its_tenants_database(tenancy: Tenancy) -> None:
    client = make(tenancy)[0].test_client()
    for each in ("uk", "aus", "uk"):
        assert client.get(f"/?tenant={each}").text == each
        assert current() is None


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("?tenant=mars", 404), ("?tenant=shut", 403), ("?tenant=moving", 503)],
)
def test_a_request_without_a_tenant_to_serve_is_refused(
    tenancy: Tenancy, query: str, status: int
) -> None:
    response = make(tenancy)[0].test_client().get(f"/{query}")
    assert response.status_code == status
    assert ("Retry-After" in response.headers) is (status == 503)
    assert "mars" not in response.text


def test_a_refusal_is_shown_on_the_applications_own_page(tenancy: Tenancy) -> None:
    app, _ = make(tenancy)

    @app.errorhandler(404)
    def lost(error: Any) -> tuple[str, int]:
        return f"our own page: {error.description}", 404

    response = app.test_client().get("/?tenant=mars")
    assert (response.status_code, response.text) == (404, "our own page: There is no such tenant.")


def test_the_application_may_answer_an_error_itself(tenancy: Tenancy) -> None:
    app, _ = make(tenancy)

    @app.errorhandler(UnknownTenantError)
    def teapot(error: UnknownTenantError) -> tuple[str, int]:
        return "no such shop", 418

    assert app.test_client().get("/?tenant=mars").status_code == 418
    assert app.test_client().get("/?tenant=shut").status_code == 403


def test_a_page_that_does_not_exist_needs_no_tenant(tenancy: Tenancy) -> None:
    client = make(tenancy)[0].test_client()
    assert client.get("/nowhere").status_code == 404
    assert client.options("/").status_code == 200
    assert client.post("/").status_code == 405


class Health(MethodView):
    def get(self) -> str:
        return f"{in_shared()} {current()}"


def test_shared_routes_belong_to_nobody(tenancy: Tenancy) -> None:
    app, _ = make(tenancy)
    docs = Blueprint("docs", __name__)

    @app.get("/health")
    @shared_route
    def health() -> str:
        return f"{in_shared()} {current()}"

    @shared_route
    @app.get("/above")
    def above() -> str:
        return f"{in_shared()} {current()}"

    app.add_url_rule("/class", view_func=shared_route(Health.as_view("class")))
    docs.add_url_rule("/docs", view_func=Health.as_view("page"))
    app.register_blueprint(docs)
    client = app.test_client()
    for path in ("/health", "/above", "/class"):
        for query in ("", "?tenant=uk", "?tenant=mars", "?tenant=shut"):
            assert client.get(path + query).text == "True None", path
    assert client.get("/docs").status_code == 400


def test_settings_mark_shared_endpoints_and_static_files_are_shared(
    tenancy: Tenancy, tmp_path: Path
) -> None:
    app = Flask("shop", static_folder=str(tmp_path / "static"))
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "a.css").write_text("a {}")
    app.config["TENANTRY_SHARED_ENDPOINTS"] = ["docs.*"]
    Tenantry(app, tenancy=tenancy, resolver=from_query())
    docs = Blueprint("docs", __name__)
    docs.add_url_rule("/docs", view_func=Health.as_view("page"))
    app.register_blueprint(docs)
    client = app.test_client()
    assert client.get("/docs").text == "True None"
    static = client.get("/static/a.css")
    assert static.text == "a {}"
    static.close()


def test_is_shared_decides_from_the_facts(tenancy: Tenancy) -> None:
    app, _ = make(tenancy, is_shared=lambda facts: facts.path == "/status")
    app.add_url_rule("/status", view_func=Health.as_view("status"))
    assert app.test_client().get("/status").text == "True None"


def test_the_session_is_one_per_request_and_closed_at_its_end(tenancy: Tenancy) -> None:
    app, tenantry = make(tenancy)
    seen = []

    @app.get("/twice")
    def twice() -> str:
        seen.append(tenantry.session)
        assert tenantry.session is tenantry.session
        tenantry.session.execute(READ)
        return str(tenancy.status()["held_by"])

    client = app.test_client()
    assert client.get("/twice?tenant=uk").text == "{'uk': 1}"
    assert client.get("/twice?tenant=uk").text == "{'uk': 1}"
    assert seen[0] is not seen[1]
    assert tenancy.status()["held_by"] == {}


def test_an_exception_in_a_view_leaves_nothing(tenancy: Tenancy) -> None:
    app, tenantry = make(tenancy)
    app.testing = False

    @app.get("/boom")
    def boom() -> str:
        add_note(tenantry.session, "never")
        raise ZeroDivisionError

    client = app.test_client()
    assert client.get("/boom?tenant=uk").status_code == 500
    assert current() is None
    assert tenancy.status()["held_by"] == {}
    assert client.get("/?tenant=uk").text == "uk"


def test_the_session_of_another_tenant_in_the_request_is_another(tenancy: Tenancy) -> None:
    app, tenantry = make(tenancy)

    @app.get("/both")
    def both() -> str:
        mine = list(tenantry.session.scalars(READ))
        with pytest.raises(TenantSwitchError), tenancy.use("aus"):
            pass
        with tenancy.use("aus", switch=True):
            theirs = list(tenantry.session.scalars(READ))
        return ",".join([*mine, *theirs, *tenantry.session.scalars(READ)])

    assert app.test_client().get("/both?tenant=uk").text == "uk,aus,uk"
    assert tenancy.status()["held_by"] == {}


def test_the_current_tenant_in_views_templates_and_environ(tenancy: Tenancy) -> None:
    app, _ = make(tenancy)

    @app.get("/page")
    def page() -> str:
        seen = f"{current_tenant.id} {require().id} {request.environ['tenantry.tenant'].id} "
        return seen + render_template_string("{{ current_tenant.id }}")

    @app.get("/shared")
    @shared_route
    def shared() -> str:
        return render_template_string("{{ current_tenant is none }}")

    client = app.test_client()
    assert client.get("/page?tenant=uk").text == "uk uk uk uk"
    assert client.get("/shared").text == "True"
    with pytest.raises(NoTenantError):
        current_tenant.id  # noqa: B018


def test_a_streamed_body_reads_the_tenants_database(tenancy: Tenancy) -> None:
    app, tenantry = make(tenancy)

    @app.get("/plain")
    def plain() -> Response:
        def stream() -> Iterator[str]:
            for _ in range(3):
                yield ",".join(notes(tenancy)) + " "

        return Response(stream())

    @app.get("/session")
    def with_session() -> Response:
        @stream_with_context
        def stream() -> Iterator[str]:
            for _ in range(3):
                yield ",".join(tenantry.session.scalars(READ)) + " "

        return Response(stream())  # type: ignore[call-arg]

    client = app.test_client()
    for path in ("/plain", "/session"):
        responses = [client.get(f"{path}?tenant={each}") for each in ("uk", "aus")]
        with tenancy.use("aus"):
            assert [response.text for response in responses] == ["uk uk uk ", "aus aus aus "]
        for response in responses:
            response.close()
    assert tenancy.status()["held_by"] == {}


def test_threads_start_with_nobody_unless_they_are_handed_the_tenant(tenancy: Tenancy) -> None:
    app, tenantry = make(tenancy)

    def attempt() -> str:
        try:
            return ",".join(notes(tenancy))
        except NoTenantError:
            return "refused"

    @app.get("/threads")
    def threads() -> str:
        @copy_current_request_context
        def copied() -> str:
            with pytest.raises(NoTenantError):
                tenantry.session  # noqa: B018
            return attempt()

        work: list[Callable[[], str]] = [attempt, copied, carry(attempt)]
        with ThreadPoolExecutor(1) as pool:
            seen = [pool.submit(each).result() for each in work]
        timer = threading.Timer(0, lambda: seen.append(attempt()))
        timer.start()
        timer.join()
        return " ".join(seen)

    assert app.test_client().get("/threads?tenant=uk").text == "refused refused uk refused"


def test_an_async_view_and_an_async_hook_run_under_the_tenant(tenancy: Tenancy) -> None:
    pytest.importorskip("asgiref")
    app, tenantry = make(tenancy, resolver=None)

    @app.before_request
    async def choose() -> None:
        tenantry.choose_tenant(request.args["tenant"])

    @app.get("/async")
    async def view() -> str:
        return f"{current_tenant.id} {','.join(tenantry.session.scalars(READ))}"

    client = app.test_client()
    for each in ("uk", "aus", "uk"):
        assert client.get(f"/async?tenant={each}").text == f"{each} {each}"
        assert current() is None


# Tests and shells ---------------------------------------------------------------------------


@pytest.fixture
def outer(tenancy: Tenancy) -> Iterator[tuple[Flask, Tenantry]]:
    """The usual fixture: one application context around all requests of a test."""
    app, tenantry = make(tenancy)

    @app.get("/g")
    def counted() -> str:
        g.count = g.get("count", 0) + 1
        return f"{g.count} {id(tenantry.session)} {tenantry.session.tenant}"

    with app.app_context():
        yield app, tenantry


@pytest.mark.parametrize("first", ["uk", "aus"])
@pytest.mark.parametrize("second", ["uk", "aus"])
def test_requests_inside_one_app_context_share_nothing(
    outer: tuple[Flask, Tenantry], first: str, second: str
) -> None:
    app, _ = outer
    client = app.test_client()
    sessions = set()
    for each in (first, second, first):
        count, session, tenant = client.get(f"/g?tenant={each}").text.split()
        assert (count, tenant) == ("1", each)
        sessions.add(session)
        assert client.get(f"/?tenant={each}").text == each
    assert client.get("/").status_code == 400
    assert "count" not in g


def test_a_request_inside_a_tenants_block_is_still_its_own(
    outer: tuple[Flask, Tenantry], tenancy: Tenancy
) -> None:
    app, tenantry = outer
    with tenancy.use("uk"):
        mine = tenantry.session
        assert app.test_client().get("/?tenant=aus").text == "aus"
        assert app.test_client().get("/").status_code == 400
        assert tenantry.session is mine
        assert list(mine.scalars(READ)) == ["uk"]


def test_a_request_inside_a_request_is_its_own(tenancy: Tenancy) -> None:
    app, tenantry = make(tenancy)

    @app.get("/nested")
    def nested() -> str:
        g.mark = "outer"
        inner = app.test_client().get("/mark?tenant=aus").text
        return f"{inner} in {current_tenant.id} {','.join(tenantry.session.scalars(READ))}"

    @app.get("/mark")
    def mark() -> str:
        return f"{g.get('mark')} {','.join(tenantry.session.scalars(READ))}"

    assert app.test_client().get("/nested?tenant=uk").text == "None aus in uk uk"


def test_a_client_keeps_the_context_of_its_last_request(tenancy: Tenancy) -> None:
    app, _ = make(tenancy)

    @app.get("/keep")
    def keep() -> str:
        g.kept = current_tenant.id
        return "kept"

    with app.test_client() as client:
        for each in ("uk", "aus"):
            client.get(f"/keep?tenant={each}")
            assert g.kept == each
            assert request.args["tenant"] == each
            assert current() is None


def test_a_test_request_context_enters_the_tenant_when_it_is_preprocessed(
    tenancy: Tenancy,
) -> None:
    app, tenantry = make(tenancy)
    with app.app_context():
        for each in ("uk", "aus", "uk"):
            with app.test_request_context(f"/?tenant={each}"):
                with pytest.raises(NoTenantError):
                    tenantry.session  # noqa: B018
                app.preprocess_request()
                assert list(tenantry.session.scalars(READ)) == [each]
            assert current() is None
        with (
            app.test_request_context("/?tenant=shut"),
            pytest.raises(Exception, match="suspended"),
        ):
            app.preprocess_request()
    assert tenancy.status()["held_by"] == {}


def test_the_shell_knows_the_tenancy(tenancy: Tenancy) -> None:
    app, tenantry = make(tenancy)
    shell = app.make_shell_context()
    assert shell["tenancy"] is tenancy
    with app.app_context():
        with shell["use"]("uk"):
            assert list(tenantry.session.scalars(READ)) == ["uk"]
        with shell["use"]("aus"):
            assert list(tenantry.session.scalars(READ)) == ["aus"]
        shell["choose_tenant"]("uk")
        assert shell["current_tenant"].id == "uk"
    assert current() is None


def test_a_shell_can_be_run(tenancy: Tenancy) -> None:
    app, _ = make(tenancy)
    typed = "with use('aus'): print('notes of', current_tenant.id)\n\n"
    flask = FlaskGroup(create_app=lambda: app)
    result = app.test_cli_runner().invoke(flask, args=["shell"], input=typed)
    assert "notes of aus" in result.output


# Choosing -----------------------------------------------------------------------------------


def test_the_application_chooses_in_before_request(tenancy: Tenancy) -> None:
    app, tenantry = make(tenancy, resolver=None)

    @app.before_request
    def choose() -> None:
        for each in request.args.getlist("tenant"):
            tenantry.choose_tenant(each)

    client = app.test_client()
    assert client.get("/?tenant=uk").text == "uk"
    assert client.get("/?tenant=aus").text == "aus"
    assert client.get("/?tenant=mars").status_code == 404
    with pytest.raises(TenantSwitchError):
        client.get("/?tenant=uk&tenant=aus")
    with pytest.raises(NoTenantError):
        client.get("/")
    assert current() is None


def test_a_choice_cannot_leave_the_tenant_of_the_request(tenancy: Tenancy) -> None:
    app, tenantry = make(tenancy)

    @app.get("/choose/<tenant>")
    def choose(tenant: str) -> str:
        return tenantry.choose_tenant(tenant).id

    client = app.test_client()
    assert client.get("/choose/uk?tenant=uk").text == "uk"
    with pytest.raises(TenantSwitchError):
        client.get("/choose/aus?tenant=uk")


def test_a_choice_in_an_app_context_ends_with_it(tenancy: Tenancy) -> None:
    app, tenantry = make(tenancy)
    with app.app_context():
        tenantry.choose_tenant("uk")
        assert list(tenantry.session.scalars(READ)) == ["uk"]
        with pytest.raises(TenantSwitchError):
            tenantry.choose_tenant("aus")
    assert current() is None
    assert tenancy.status()["held_by"] == {}


def test_a_streamed_body_belongs_to_the_chosen_tenant(tenancy: Tenancy) -> None:
    app, tenantry = make(tenancy, resolver=None)

    @app.get("/stream/<tenant>")
    def stream(tenant: str) -> Response:
        tenantry.choose_tenant(tenant)
        return Response(",".join(notes(tenancy)) for _ in range(2))

    assert app.test_client().get("/stream/uk").text == "ukuk"
    assert app.test_client().get("/stream/aus").text == "ausaus"


# Resolvers and settings ---------------------------------------------------------------------


def test_a_tenant_in_the_path_is_where_the_application_is_mounted(tenancy: Tenancy) -> None:
    app, _ = make(tenancy, resolver=from_path(ignore=("static",)))

    @app.get("/where")
    def where() -> str:
        from flask import url_for

        return f"{current_tenant.id} {url_for('where')} {request.path}"

    client = app.test_client()
    assert client.get("/uk/where").text == "uk /uk/where /where"
    assert client.get("/aus/").text == "aus"
    assert client.get("/mars/where").status_code == 404


def test_the_session_can_name_the_tenant(tenancy: Tenancy) -> None:
    app, _ = make(tenancy, resolver=first_of(from_session(authenticated=True), from_query()))

    @app.get("/login/<tenant>")
    @shared_route
    def login(tenant: str) -> str:
        flask_session["tenant"] = tenant
        return "welcome"

    client = app.test_client()
    assert client.get("/").status_code == 400
    client.get("/login/uk")
    assert client.get("/").text == "uk"
    assert client.get("/?tenant=aus").status_code == 403


def test_settings_name_resolver_and_file(tmp_path: Path) -> None:
    tenancy_in(tmp_path, "uk", "aus").close()
    (tmp_path / "tenants.toml").write_text(
        '[servers.files]\nurl = "sqlite:///."\n[tenants.uk]\nserver = "files"\n'
        '[tenants.aus]\nserver = "files"\n'
    )
    app = Flask("shop")
    app.config.update(
        TENANTRY_FILE=str(tmp_path / "tenants.toml"),
        TENANTRY_HEADER="X-Shop",
        TENANTRY_QUERY="shop",
        TENANTRY_SUBDOMAIN_OF="example.com",
    )
    tenantry = Tenantry(app)
    app.add_url_rule("/", view_func=lambda: ",".join(tenantry.session.scalars(READ)))
    client = app.test_client()
    assert client.get("/", headers={"X-Shop": "uk"}).text == "uk"
    assert client.get("/?shop=aus").text == "aus"
    assert client.get("/", base_url="http://aus.example.com").text == "aus"
    with app.app_context():
        tenantry.tenancy.close()


def test_one_tenant_for_the_whole_process(tmp_path: Path) -> None:
    tenancy = tenancy_in(tmp_path, "uk", "aus")
    tenancy.close()
    server = next(iter(tenancy.servers.values()))
    pinned = Tenancy(tenancy.directory, [server])
    app = Flask("shop")
    app.config["TENANTRY_TENANT"] = "uk"
    tenantry = Tenantry(app, tenancy=pinned, resolver=from_query())
    app.add_url_rule("/", view_func=lambda: ",".join(tenantry.session.scalars(READ)))
    client = app.test_client()
    assert client.get("/").text == "uk"
    assert client.get("/?tenant=uk").text == "uk"
    assert client.get("/?tenant=aus").status_code == 403
    pinned.close()


@pytest.mark.parametrize(
    ("settings", "options", "error", "words"),
    [
        ({}, {}, ConfigurationError, "Tenantry needs a tenancy"),
        (
            {"TENANTRY_FILE": "a", "TENANTRY_ENV_PREFIX": "DB_"},
            {},
            ConfigurationError,
            "one of TENANTRY_FILE and TENANTRY_ENV_PREFIX",
        ),
        (
            {"TENANTRY_SHARED_ENDPOINTS": "docs"},
            {"tenancy": ...},
            ConfigurationError,
            "is a list such as",
        ),
        ({}, {"tenancy": ..., "db": object()}, ConfigurationError, "db=object is none"),
        ({}, {"tenancy": ..., "resolvers": 1}, TypeError, "takes no resolvers"),
    ],
)
def test_wrong_settings_are_named(
    tenancy: Tenancy,
    settings: dict[str, Any],
    options: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    app = Flask("shop")
    app.config.update(settings)
    if "tenancy" in options:
        options["tenancy"] = tenancy
    with pytest.raises(error, match=words):
        Tenantry().init_app(app, **options)
    assert "tenantry" not in app.extensions


def test_a_second_extension_for_one_application_is_refused(tenancy: Tenancy) -> None:
    app, tenantry = make(tenancy)
    with pytest.raises(RuntimeError, match="registered with this Flask app already"):
        tenantry.init_app(app)


def test_an_application_that_is_not_registered_is_told(tenancy: Tenancy) -> None:
    _, tenantry = make(tenancy)
    with Flask("other").app_context(), pytest.raises(RuntimeError, match="call init_app"):
        tenantry.session  # noqa: B018


def test_a_failing_resolver_is_an_error_of_the_application(tenancy: Tenancy) -> None:
    def broken(facts: Any) -> str:
        raise ZeroDivisionError

    app, _ = make(tenancy, resolver=broken)
    app.testing = False
    assert app.test_client().get("/").status_code == 500
    assert current() is None


# Several applications -----------------------------------------------------------------------


def test_one_extension_serves_several_applications(tmp_path: Path) -> None:
    tenantry = Tenantry(resolver=from_query())

    def create_app(name: str) -> Flask:
        app = Flask(name)
        (tmp_path / name).mkdir()
        tenancy = tenancy_in(tmp_path / name, "uk", f"only-{name}")
        with tenancy.use("uk"), tenancy.session() as session:
            add_note(session, f"in {name}")
            session.commit()
        tenantry.init_app(app, tenancy=tenancy)
        app.add_url_rule("/", view_func=lambda: ",".join(tenantry.session.scalars(READ)))
        return app

    one, two = create_app("one"), create_app("two")
    assert one.test_client().get("/?tenant=uk").text == "uk,in one"
    assert two.test_client().get("/?tenant=uk").text == "uk,in two"
    assert one.test_client().get("/?tenant=only-one").status_code == 200
    assert two.test_client().get("/?tenant=only-one").status_code == 404
    with one.app_context():
        first = tenantry.tenancy
        assert two.test_client().get("/?tenant=uk").text == "uk,in two"
        assert tenantry.tenancy is first
    for app in (one, two):
        with app.app_context():
            tenantry.tenancy.close()


def test_a_middleware_around_the_application_may_enter_the_tenant(tenancy: Tenancy) -> None:
    app, _ = make(tenancy, resolver=None)
    app.wsgi_app = TenantMiddleware(app.wsgi_app, tenancy, from_query())  # type: ignore[method-assign]
    client = app.test_client()
    assert client.get("/?tenant=uk").text == "uk"
    assert client.get("/").status_code == 400


def test_an_error_of_two_tenants_is_403(tenancy: Tenancy) -> None:
    app, _ = make(tenancy)

    @app.get("/mismatch")
    def mismatch() -> str:
        raise TenantMismatchError

    assert app.test_client().get("/mismatch?tenant=uk").status_code == 403


def test_sixteen_threads_never_see_another_tenant(tmp_path: Path) -> None:
    names = [f"t{number}" for number in range(6)]
    tenancy = tenancy_in(tmp_path, *names, max_connections=20)
    app, tenantry = make(tenancy)
    app.testing = False
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.get("/stream")
    def stream() -> Response:
        @stream_with_context
        def body() -> Iterator[str]:
            for _ in range(3):
                yield ",".join(tenantry.session.scalars(READ)) + " "

        return Response(body())  # type: ignore[call-arg]

    @app.get("/boom")
    def boom() -> str:
        tenantry.session.execute(text("SELECT 1"))
        app.logger.disabled = True
        raise ZeroDivisionError

    wrong: list[tuple[str, str, str]] = []
    with serving(app) as ask:

        def visit(number: int) -> None:
            for turn in range(12):
                each = names[(number + turn) % len(names)]
                path = ("/", "/stream", "/boom", "/nobody")[turn % 4]
                if path == "/nobody":
                    answer, expected = ask("/"), "400"
                    seen = str(answer.status)
                else:
                    answer = ask(f"{path}?tenant={each}")
                    seen = str(answer.status) if path == "/boom" else answer.text
                    expected = {"/": each, "/stream": f"{each} " * 3, "/boom": "500"}[path]
                if seen != expected:
                    wrong.append((path, each, seen))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(visit, range(16)))
    assert wrong == []
    assert tenancy.status()["held_by"] == {}
    tenancy.close()
