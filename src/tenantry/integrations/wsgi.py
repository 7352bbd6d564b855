"""WSGI: one middleware that runs call, streamed body and close of a request in one context.

A hook before and after a request is not enough: a generator body runs after the hooks, and
what they set stays on the worker thread for the next request when one of them is skipped.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from .. import events
from ..context import nobody, shared, use
from ..errors import (
    ConfigurationError,
    InvalidTokenError,
    OperatorError,
    TenantDeletedError,
    TenantMismatchError,
    TenantMovingError,
    TenantNotIdentifiedError,
    TenantNotReadyError,
    TenantReadOnlyError,
    TenantryError,
    TenantSuspendedError,
    UnknownTenantError,
    VisitorError,
)
from ..resolvers import Identified, RequestFacts, Resolver
from ..resolvers import resolver as as_resolver

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from ..tenancy import Tenancy
    from ..tenant import Tenant

__all__ = ["TenantMiddleware", "answer_to", "facts_of", "identify", "run_in_context"]

_logger = logging.getLogger("tenantry")

#: The key of the environ under which a request keeps the ExitStack that leaves its tenant.
SCOPE = "tenantry.scope"
TENANT = "tenantry.tenant"
SOURCE = "tenantry.source"

# What a visitor is told. Nothing of the request and nothing of a database is repeated.
_WORDS: Mapping[type[TenantryError], str] = {
    TenantNotIdentifiedError: "The request does not say which tenant it is for.",
    InvalidTokenError: "The token is not valid. Log in again.",
    TenantMismatchError: "The request is for two different tenants.",
    UnknownTenantError: "There is no such tenant.",
    TenantDeletedError: "There is no such tenant.",
    TenantSuspendedError: "This tenant is suspended.",
    TenantNotReadyError: "This tenant is still being set up. Try again shortly.",
    TenantMovingError: "This tenant is being moved. Try again shortly.",
    TenantReadOnlyError: "This tenant can only be read for the moment. Try again shortly.",
    VisitorError: "The request cannot be served.",
    OperatorError: "The service is unavailable for the moment. Try again shortly.",
}


def answer_to(error: TenantryError) -> tuple[int, str, list[tuple[str, str]]]:
    """What a visitor gets for *error*: status, one safe sentence, and headers besides.

    500 is for errors of the code and of the settings; those are for the log and for nobody else.
    """
    headers: list[tuple[str, str]] = []
    if error.retry_after_seconds is not None:
        headers.append(("Retry-After", str(error.retry_after_seconds)))
    if error.http_status == HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", 'Bearer error="invalid_token"'))
    words = (_WORDS[kind] for kind in type(error).__mro__ if kind in _WORDS)
    return error.http_status, next(words, "Something went wrong."), headers


def facts_of(
    environ: WSGIEnvironment,
    *,
    session: Mapping[str, Any] | None = None,
    claims: Mapping[str, Any] | None = None,
) -> RequestFacts:
    """What a WSGI request shows. Headers, arguments and cookies are read when first asked for."""
    get = environ.get
    more = {"session": session, "claims": claims}
    return RequestFacts.of(
        method=get("REQUEST_METHOD", "GET"),
        scheme=get("wsgi.url_scheme", "http"),
        host=get("HTTP_HOST") or get("SERVER_NAME", ""),
        # PEP 3333: the path's bytes, each as one character.
        path=get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace") or "/",
        headers=lambda: _headers(environ),
        query=lambda: parse_qsl(get("QUERY_STRING", ""), keep_blank_values=True),
        cookies=lambda: _cookies(get("HTTP_COOKIE", "")),
        client=get("REMOTE_ADDR") or None,
        **{name: value for name, value in more.items() if value is not None},
    )


def _headers(environ: WSGIEnvironment) -> list[tuple[str | bytes, str | bytes]]:
    return [
        (name.removeprefix("HTTP_").replace("_", "-").lower(), value)
        for name, value in environ.items()
        if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")
    ]


def _cookies(header: str) -> list[tuple[str | bytes, str | bytes]]:
    parts = (part.partition("=") for part in header.split(";"))
    return [(name.strip(), value.strip().strip('"')) for name, equals, value in parts if equals]


def identify(
    tenancy: Tenancy, find: Resolver, facts: RequestFacts
) -> tuple[Tenant, Identified] | None:
    """The tenant that a request is for, and who said so; ``None`` if the request says nothing.

    Raises:
        VisitorError: The request contradicts itself, or names a tenant that does not exist or is
            not served.
        OperatorError: The directory cannot be read.
    """
    found = find(facts)
    if found is None:
        return None
    tenant = tenancy.find(found.identifier)
    tenant.check_serving()
    return tenant, found


def enter(environ: WSGIEnvironment, scope: ExitStack, tenant: Tenant, found: Identified) -> None:
    """Make *tenant* current until *scope* is closed, and say so in the *environ*.

    The part of the path that named the tenant moves to the script name, as a mount point does.
    """
    scope.enter_context(use(tenant, switch=True))
    environ[TENANT], environ[SOURCE] = tenant, found.source
    if found.prefix is not None:
        # An identifier is ASCII, so the prefix has as many characters as bytes.
        environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + found.prefix
        environ["PATH_INFO"] = environ.get("PATH_INFO", "")[len(found.prefix) :] or "/"


def run_in_context(
    app: WSGIApplication,
    environ: WSGIEnvironment,
    start_response: StartResponse,
    begin: Callable[[ExitStack], None],
    context: contextvars.Context | None = None,
) -> Iterable[bytes]:
    """Call *app*, iterate its body and close it in one copied context; first call *begin* there.

    What *begin* enters on the stack it is given is left when the body is closed, or at once
    after an error. Nothing of it reaches the thread. *context* is used in the place of a copy.
    """
    context = contextvars.copy_context() if context is None else context
    scope = ExitStack()

    def call() -> Iterable[bytes]:
        try:
            begin(scope)
            environ[SCOPE] = scope
            return app(environ, start_response)
        except BaseException as error:
            scope.__exit__(type(error), error, error.__traceback__)
            raise

    body = context.run(call)
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(body, (list, tuple)) or (isinstance(wrapper, type) and isinstance(body, wrapper)):
        # Complete, or a file that the server sends by itself: no code of the app runs any more.
        context.run(scope.close)
        return body
    return _Body(context, body, scope)


class _Body:
    """A streamed body whose every step runs in the context of its request."""

    def __init__(
        self, context: contextvars.Context, body: Iterable[bytes], scope: ExitStack
    ) -> None:
        self._context = context
        self._body = body
        self._scope = scope
        self._steps = context.run(iter, body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._context.run(next, self._steps)

    def close(self) -> None:
        self._context.run(self._close)

    def _close(self) -> None:
        with self._scope:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()


class TenantMiddleware:
    """Runs each request of a WSGI application under its tenant, the streamed body included.

    *resolver* says who is asking; ``None``: the application chooses in each request, or the
    process is pinned. A request that names no tenant is answered with 400, an unknown one with
    404, a suspended one with 403, one that cannot be served now with 503 and ``Retry-After``.
    *shared_paths* belong to no tenant: exact paths, or all below one that ends in ``/``;
    *is_shared* decides the same from the facts of the request. *claims* gives what a login that
    was **verified** says, for :func:`~tenantry.resolvers.from_claim`.

    ``environ`` gets ``tenantry.tenant`` (a :class:`~tenantry.Tenant`) and ``tenantry.source``
    (which resolver named it); a part of the path that named the tenant moves to ``SCRIPT_NAME``.

    Raises:
        ConfigurationError: *shared_paths* is a string, or holds one without a leading slash.
    """

    def __init__(
        self,
        app: WSGIApplication,
        tenancy: Tenancy,
        resolver: Callable[[RequestFacts], Any] | None = None,
        *,
        shared_paths: Iterable[str] = (),
        is_shared: Callable[[RequestFacts], bool] | None = None,
        claims: Callable[[WSGIEnvironment], Mapping[str, Any]] | None = None,
    ) -> None:
        self._app = app
        self._tenancy = tenancy
        self._resolver = as_resolver(resolver) if resolver is not None else None
        paths = () if isinstance(shared_paths, str) else tuple(shared_paths)
        if isinstance(shared_paths, str) or not all(path.startswith("/") for path in paths):
            raise ConfigurationError(
                "shared_paths is a list of paths such as ['/health', '/docs/']"
            )
        self._shared_paths = frozenset(path for path in paths if not path.endswith("/"))
        self._shared_below = tuple(path for path in paths if path.endswith("/"))
        self._is_shared = is_shared
        self._claims = claims

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""

        def begin(scope: ExitStack) -> None:
            self._begin(environ, scope)

        answered = False

        def answer(*args: Any) -> Any:
            nonlocal answered
            answered = True
            return start_response(*args)

        try:
            return run_in_context(self._app, environ, answer, begin)
        except (VisitorError, OperatorError) as error:
            return refuse(environ, start_response, error, answered)

    def _begin(self, environ: WSGIEnvironment, scope: ExitStack) -> None:
        scope.enter_context(nobody())
        facts = facts_of(environ, claims=self._claims(environ) if self._claims else None)
        if self._belongs_to_nobody(facts):
            scope.enter_context(shared())
            return
        if self._resolver is None:
            return
        found = identify(self._tenancy, self._resolver, facts)
        if found is None:
            raise TenantNotIdentifiedError
        enter(environ, scope, *found)

    def _belongs_to_nobody(self, facts: RequestFacts) -> bool:
        return (
            facts.path in self._shared_paths
            or (self._shared_below != () and facts.path.startswith(self._shared_below))
            or (self._is_shared is not None and self._is_shared(facts))
        )


def refuse(
    environ: WSGIEnvironment, start_response: StartResponse, error: TenantryError, again: bool
) -> Iterable[bytes]:
    """Answer a request with the status of *error* and nothing that it should not tell.

    *again* says that the application has begun to answer already.
    """
    note_refusal(error)
    status, words, headers = answer_to(error)
    body = f"{words}\n".encode()
    headers += [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    reason = f"{status} {HTTPStatus(status).phrase}"
    if again and error.__traceback__ is not None:
        start_response(reason, headers, (type(error), error, error.__traceback__))
    else:
        start_response(reason, headers)
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


def note_refusal(error: TenantryError) -> None:
    """Tell the listeners, and the log what the operator must look at."""
    if isinstance(error, OperatorError):
        _logger.error("a request was refused: %s", error, exc_info=error)
    if events.listening():
        events.emit(events.Refused(error.tenant_id, type(error).__name__))
