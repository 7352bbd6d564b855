"""A request of a WSGI application runs under its tenant, from the call to the close of its body."""

from __future__ import annotations

import contextvars
import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper

import pytest

from tenantry import Tenancy, carry, current, events, in_shared
from tenantry.errors import (
    BudgetExhaustedError,
    ConfigurationError,
    InvalidTokenError,
    NoTenantError,
    TenantReadOnlyError,
)
from tenantry.integrations.wsgi import TenantMiddleware, facts_of
from tenantry.resolvers import (
    RequestFacts,
    first_of,
    from_claim,
    from_cookie,
    from_header,
    from_path,
    from_query,
    from_subdomain,
)
from tests.integrations.places import call, environ_of, notes, serving, tenancy_in, unheard

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Work = Callable[["WSGIEnvironment"], Iterable[bytes]]


@pytest.fixture
def tenancy(tmp_path: Path) -> Iterator[Tenancy]:
    tenancy = tenancy_in(tmp_path, "uk", "aus", "shut", "moving", max_connections=30)
    yield tenancy
    tenancy.close()


def app_of(work: Work) -> WSGIApplication:
    """An application whose body is what *work* makes of the environ."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return work(environ)

    return app


def guarded(tenancy: Tenancy, work: Work, **options: Any) -> WSGIApplication:
    options.setdefault("resolver", from_query())
    return TenantMiddleware(app_of(work), tenancy, **options)


def name(_: Any = None) -> list[bytes]:
    tenant = current()
    return [(tenant.id if tenant is not None else "nobody").encode()]


def test_the_call_runs_under_the_tenant_and_the_thread_after_it_under_nobody(
    tenancy: Tenancy,
) -> None:
    app = guarded(tenancy, lambda _: [",".join(notes(tenancy)).encode()])
    for each in ("uk", "aus", "uk"):
        assert call(app, query=f"tenant={each}").text == each
        assert current() is None


def test_every_step_of_a_streamed_body_runs_under_the_tenant(tenancy: Tenancy) -> None:
    closed = []

    def stream(_: Any) -> Iterator[bytes]:
        try:
            for _ in range(3):
                yield ",".join(notes(tenancy)).encode() + b" "
        finally:
            closed.append(name()[0])

    app = guarded(tenancy, stream)
    bodies = [app(environ_of(query=f"tenant={each}"), unheard) for each in ("uk", "aus")]
    steps = [iter(body) for body in bodies]
    read = [next(step).decode() for _ in range(3) for step in steps]
    assert read == ["uk ", "aus "] * 3
    for body in bodies:
        body.close()  # type: ignore[attr-defined]
    assert closed == [b"uk", b"aus"]
    assert current() is None


def test_a_body_read_under_another_tenant_is_still_its_own(tenancy: Tenancy) -> None:
    def stream(_: Any) -> Iterator[bytes]:
        yield ",".join(notes(tenancy)).encode()

    body = guarded(tenancy, stream)(environ_of(query="tenant=uk"), unheard)
    with tenancy.use("aus"):
        assert b"".join(body) == b"uk"
        assert notes(tenancy) == ["aus"]


def test_a_body_that_is_closed_early_leaves_nothing(tenancy: Tenancy) -> None:
    closed = []

    def stream(_: Any) -> Iterator[bytes]:
        try:
            with tenancy.session() as session:
                session.connection()
                yield b"a"
                yield b"b"
        finally:
            closed.append(name()[0])

    body = guarded(tenancy, stream)(environ_of(query="tenant=uk"), unheard)
    assert next(iter(body)) == b"a"
    assert tenancy.status()["held_by"] == {"uk": 1}
    body.close()  # type: ignore[attr-defined]
    assert closed == [b"uk"]
    assert tenancy.status()["held_by"] == {}


def test_a_list_and_a_file_are_handed_on_as_they_are(tenancy: Tenancy) -> None:
    whole = [b"whole"]
    app = guarded(tenancy, lambda _: whole)
    assert app(environ_of(query="tenant=uk"), unheard) is whole
    file = FileWrapper(io.BytesIO(b"file"))
    app = guarded(tenancy, lambda _: file)
    environ = {**environ_of(query="tenant=uk"), "wsgi.file_wrapper": FileWrapper}
    assert app(environ, unheard) is file


@pytest.mark.parametrize("when", ["call", "stream", "close"])
def test_an_exception_passes_through_and_leaves_nobody_current(tenancy: Tenancy, when: str) -> None:
    class Body:
        def __iter__(self) -> Iterator[bytes]:
            if when == "stream":
                raise ZeroDivisionError
            yield b""

        def close(self) -> None:
            if when == "close":
                raise ZeroDivisionError

    def work(_: Any) -> Body:
        if when == "call":
            raise ZeroDivisionError
        return Body()

    with pytest.raises(ZeroDivisionError):
        call(guarded(tenancy, work), query="tenant=uk")
    assert current() is None
    assert call(guarded(tenancy, name), query="tenant=aus").text == "aus"


def test_what_the_application_sets_does_not_stay_on_the_thread(tenancy: Tenancy) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")

    def work(_: Any) -> list[bytes]:
        before = variable.get()
        variable.set("dirty")
        return [before.encode()]

    app = guarded(tenancy, work)
    assert [call(app, query="tenant=uk").text for _ in range(2)] == ["clean", "clean"]


@pytest.mark.parametrize(
    ("query", "status", "words", "retry"),
    [
        ("", 400, "The request does not say which tenant it is for.", None),
        ("tenant=", 400, "The request does not say which tenant it is for.", None),
        ("tenant=mars", 404, "There is no such tenant.", None),
        ("tenant=%27%20OR%201%3D1", 404, "There is no such tenant.", None),
        ("tenant=uk&tenant=aus", 403, "The request is for two different tenants.", None),
        ("tenant=shut", 403, "This tenant is suspended.", None),
        ("tenant=moving", 503, "This tenant is being moved. Try again shortly.", "5"),
    ],
)
def test_a_request_without_a_tenant_to_serve_is_refused(
    tenancy: Tenancy, query: str, status: int, words: str, retry: str | None
) -> None:
    called: list[Any] = []

    def work(environ: WSGIEnvironment) -> list[bytes]:
        called.append(environ)
        return [b""]

    answer = call(guarded(tenancy, work), query=query)
    assert (answer.status, answer.text.strip()) == (status, words)
    assert answer.headers.get("Retry-After") == retry
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert called == []


def test_what_a_visitor_sent_is_not_repeated(tenancy: Tenancy) -> None:
    answer = call(guarded(tenancy, name), query="tenant=%3Cscript%3Ecanary%3C/script%3E")
    assert answer.status == 404
    assert "canary" not in answer.text


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (TenantReadOnlyError("row 7 of uk", tenant_id="uk"), 503, {"Retry-After": "30"}),
        (BudgetExhaustedError("held by aus"), 503, {"Retry-After": "5"}),
        (InvalidTokenError("canary"), 401, {"WWW-Authenticate": 'Bearer error="invalid_token"'}),
    ],
)
def test_an_error_of_ours_in_the_application_has_its_status(
    tenancy: Tenancy, error: Exception, status: int, headers: dict[str, str]
) -> None:
    def work(_: Any) -> list[bytes]:
        raise error

    answer = call(guarded(tenancy, work), query="tenant=uk")
    assert answer.status == status
    assert headers.items() <= answer.headers.items()
    assert str(error) not in answer.text


def test_an_error_of_the_code_is_no_answer(tenancy: Tenancy) -> None:
    def work(_: Any) -> list[bytes]:
        raise NoTenantError

    with pytest.raises(NoTenantError):
        call(guarded(tenancy, work), query="tenant=uk")


def test_head_gets_no_body(tenancy: Tenancy) -> None:
    answer = call(guarded(tenancy, name), REQUEST_METHOD="HEAD")
    assert (answer.status, answer.body) == (400, b"")


def test_a_refusal_is_an_event(tenancy: Tenancy) -> None:
    heard: list[events.Event] = []
    stop = events.listen(heard.append)
    try:
        call(guarded(tenancy, name), query="tenant=shut")
        call(guarded(tenancy, name), query="tenant=uk")
    finally:
        stop()
    assert events.Refused("shut", "TenantSuspendedError") in heard
    assert heard[-2:] == [events.TenantEntered("uk"), events.TenantLeft("uk")]


@pytest.mark.parametrize(
    ("path", "shared"),
    [("/health", True), ("/health/x", False), ("/docs/a/b", True), ("/docs", False), ("/x", False)],
)
def test_shared_paths_belong_to_nobody(tenancy: Tenancy, path: str, shared: bool) -> None:
    def work(_: Any) -> list[bytes]:
        return [f"{in_shared()} {current()}".encode()]

    app = guarded(tenancy, work, shared_paths=["/health", "/docs/"])
    answer = call(app, path, "tenant=uk")
    assert answer.text == ("True None" if shared else "False uk")


def test_is_shared_decides_from_the_facts(tenancy: Tenancy) -> None:
    def is_shared(facts: RequestFacts) -> bool:
        return facts.host == "status.example.com"

    app = guarded(tenancy, lambda _: [str(in_shared()).encode()], is_shared=is_shared)
    assert call(app, HTTP_HOST="status.example.com").text == "True"
    assert call(app, HTTP_HOST="example.com").status == 400


@pytest.mark.parametrize("paths", ["/health", ["health"]])
def test_shared_paths_are_a_list_of_paths(tenancy: Tenancy, paths: Any) -> None:
    with pytest.raises(ConfigurationError, match="shared_paths is a list"):
        guarded(tenancy, name, shared_paths=paths)


def test_the_environ_names_tenant_and_source(tenancy: Tenancy) -> None:
    def work(environ: WSGIEnvironment) -> list[bytes]:
        return [f"{environ['tenantry.tenant'].id} by {environ['tenantry.source']}".encode()]

    find = first_of(from_subdomain("example.com"), from_header(), from_cookie(), from_query())
    app = guarded(tenancy, work, resolver=find)
    assert call(app, HTTP_HOST="uk.example.com:8000").text == "uk by subdomain"
    assert call(app, HTTP_X_TENANT="aus").text == "aus by header X-Tenant"
    assert call(app, HTTP_COOKIE="a=b; tenant=uk").text == "uk by cookie tenant"
    assert call(app, query="tenant=aus").text == "aus by query tenant"


def test_the_part_of_the_path_that_names_the_tenant_becomes_the_mount_point(
    tenancy: Tenancy,
) -> None:
    def work(environ: WSGIEnvironment) -> list[bytes]:
        return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}".encode()]

    app = guarded(tenancy, work, resolver=from_path("/t"))
    latin = "/orders/caf\xc3\xa9"  # PEP 3333: each byte as one character
    assert call(app, f"/t/uk{latin}", SCRIPT_NAME="/app").body == f"/app/t/uk|{latin}".encode()
    assert call(app, "/t/uk").text == "/t/uk|/"
    assert call(app, "/t/mars/x").status == 404


def test_claims_come_from_what_the_application_verified(tenancy: Tenancy) -> None:
    find = first_of(from_claim(), from_query())
    app = guarded(tenancy, name, resolver=find, claims=lambda environ: environ.get("login", {}))
    assert call(app, query="tenant=uk").text == "uk"
    assert call(app, login={"tenant": "aus"}).text == "aus"
    assert call(app, query="tenant=uk", login={"tenant": "aus"}).status == 403


def test_without_a_resolver_a_request_begins_with_nobody(tenancy: Tenancy) -> None:
    app = guarded(tenancy, name, resolver=None)
    with tenancy.use("uk"):
        assert call(app).text == "nobody"


def test_a_request_inside_another_tenants_block_is_its_own(tenancy: Tenancy) -> None:
    app = guarded(tenancy, name)
    with tenancy.use("uk"):
        assert call(app, query="tenant=aus").text == "aus"
        assert call(app).status == 400
        assert name() == [b"uk"]


def test_a_request_inside_a_request_is_its_own(tenancy: Tenancy) -> None:
    inner = guarded(tenancy, name)

    def work(_: Any) -> list[bytes]:
        return [call(inner, query="tenant=aus").body, b" inside ", *name()]

    assert call(guarded(tenancy, work), query="tenant=uk").text == "aus inside uk"


def test_a_thread_an_executor_and_a_timer_start_with_nobody(tenancy: Tenancy) -> None:
    def attempt() -> str:
        try:
            return ",".join(notes(tenancy))
        except NoTenantError:
            return "refused"

    seen: list[str] = []

    def work(_: Any) -> list[bytes]:
        threads = [
            threading.Thread(target=lambda: seen.append(attempt())),
            threading.Timer(0, lambda: seen.append(attempt())),
            threading.Thread(target=carry(lambda: seen.append(attempt()))),
        ]
        for thread in threads:
            thread.start()
            thread.join()
        with ThreadPoolExecutor(1) as pool:
            seen.append(pool.submit(attempt).result())
            seen.append(pool.submit(carry(attempt)).result())
        return [b""]

    call(guarded(tenancy, work), query="tenant=aus")
    assert seen == ["refused", "refused", "aus", "refused", "aus"]


def test_work_that_outlives_the_request_is_refused(tenancy: Tenancy) -> None:
    kept: list[Callable[[], list[str]]] = []

    def work(_: Any) -> list[bytes]:
        kept.append(lambda: notes(tenancy))
        return [b""]

    call(guarded(tenancy, work), query="tenant=uk")
    with pytest.raises(NoTenantError):
        kept[0]()


def test_sixteen_threads_never_see_another_tenant(tmp_path: Path) -> None:
    names = [f"t{number}" for number in range(6)]
    tenancy = tenancy_in(tmp_path, *names, max_connections=20)

    def stream(_: Any) -> Iterator[bytes]:
        for _ in range(3):
            yield ",".join(notes(tenancy)).encode() + b" "

    def work(environ: WSGIEnvironment) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/boom":
            raise VisibleError
        return stream(environ)

    class VisibleError(Exception):
        pass

    def survive(app: WSGIApplication) -> WSGIApplication:
        def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            try:
                return app(environ, start_response)
            except VisibleError:
                start_response("500 Oops", [], sys.exc_info())
                return [b"oops"]

        return wrapped

    wrong: list[tuple[str, str]] = []
    with serving(survive(guarded(tenancy, work))) as ask:

        def visit(number: int) -> None:
            for turn in range(12):
                each = names[(number + turn) % len(names)]
                path = "/boom" if turn % 5 == 4 else "/"
                answer = ask(f"{path}?tenant={each}")
                if answer.text != ("oops" if path == "/boom" else f"{each} " * 3):
                    wrong.append((each, answer.text))
                if turn % 4 == 0 and ask("/").status != 400:
                    wrong.append(("nobody", "served"))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(visit, range(16)))
    assert wrong == []
    assert tenancy.status()["held_by"] == {}
    tenancy.close()


def test_facts_of_a_hostile_environ_are_only_facts() -> None:
    facts = facts_of(
        environ_of(
            "/\xff\xfe",
            "a=%FF&=&;;&a",
            HTTP_COOKIE='=x; ;a; b="c"; b=c; \x00=1',
            HTTP_HOST="",
            REMOTE_ADDR="",
        )
    )
    assert facts.path == "/\ufffd\ufffd"
    assert facts.host == "localhost"
    assert facts.cookies.all("b") == ("c", "c")
    assert facts.client is None
    assert facts.query.all("a") == ("\ufffd", "")
