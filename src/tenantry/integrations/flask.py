"""Flask: each request of an application runs under its tenant, sessions and streams included."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..errors import MissingDependencyError

try:
    from flask import Flask, current_app, g, has_request_context, request
    from flask.typing import ResponseReturnValue
    from werkzeug.exceptions import HTTPException, default_exceptions
    from werkzeug.local import LocalProxy
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"{error.name} is not installed; run `pip install 'tenantry[flask]'`"
    ) from None

from ..context import current, in_shared, nobody, require, shared, use
from ..errors import (
    ConfigurationError,
    OperatorError,
    TenantMismatchError,
    TenantNotIdentifiedError,
    TenantryError,
    TenantSwitchError,
    VisitorError,
)
from ..resolvers import RequestFacts, Resolver, first_of, from_header, from_query, from_subdomain
from ..resolvers import resolver as as_resolver
from ..tenant import Tenant
from .wsgi import (
    SCOPE,
    SOURCE,
    TENANT,
    answer_to,
    enter,
    facts_of,
    identify,
    note_refusal,
    run_in_context,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from ..orm import TenantSession
    from ..tenancy import Tenancy

__all__ = ["Tenantry", "current_tenant", "shared_route"]

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__tenantry_shared__"
_ERROR = "tenantry.error"
_CHOSEN = "tenantry.chosen"
_UNSERVED = "tenantry.unserved"  # in a request context that no server's call made
_SHARED_ENDPOINTS = ("static", "*.static")
# A request begins without what a test or another request around it has pushed.
_FLASK_CONTEXTS = frozenset({"flask.app_ctx", "flask.request_ctx"})

#: The current tenant; using it where there is none raises :class:`~tenantry.errors.NoTenantError`.
current_tenant: Tenant = cast(Tenant, LocalProxy(require))


def shared_route(view: F) -> F:
    """Mark a view as belonging to no tenant, on purpose: it runs in a shared block.

    Stands above or below ``@app.route``; a class-based view is marked by its ``as_view()``.
    """
    setattr(view, _MARK, True)
    return view


@dataclass
class AppState:
    """What the extension keeps for one application, as ``app.extensions["tenantry"]``."""

    tenancy: Callable[[], Tenancy | None]
    resolver: Resolver | None
    db: Any
    claims: Callable[[WSGIEnvironment], Mapping[str, Any]] | None
    is_shared: Callable[[RequestFacts], bool] | None
    shared_endpoints: tuple[str, ...]
    pinned: str | None = None
    close_sessions: Callable[[int | None], None] | None = None


class Tenantry:
    """Makes a Flask application serve many tenants; one object for any number of applications.

    *resolver* says who is asking. ``None`` takes what the settings name (``TENANTRY_HEADER``,
    ``TENANTRY_QUERY``, ``TENANTRY_SUBDOMAIN_OF``); if they name nothing, the application calls
    :meth:`choose_tenant` in a ``before_request`` function. *db* is the application's
    Flask-SQLAlchemy or Flask-SQLAlchemy-Lite object, which then goes to the current tenant's
    database; it is registered with the application if it is not yet. *is_shared* decides from
    the facts of a request whether it belongs to no tenant; *claims* gives what a verified login
    says.

    Give everything here, or to :meth:`init_app`.

    Raises:
        ConfigurationError: There is no tenancy, or a setting is wrong.
        RuntimeError: Another ``Tenantry`` is registered with the application already.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        tenancy: Tenancy | Callable[[], Tenancy | None] | None = None,
        resolver: Callable[[RequestFacts], Any] | None = None,
        db: Any = None,
        is_shared: Callable[[RequestFacts], bool] | None = None,
        claims: Callable[[WSGIEnvironment], Mapping[str, Any]] | None = None,
    ) -> None:
        self._defaults: dict[str, Any] = {
            "tenancy": tenancy,
            "resolver": resolver,
            "db": db,
            "is_shared": is_shared,
            "claims": claims,
        }
        if app is not None:
            self.init_app(app)

    # Setting up -----------------------------------------------------------------------------

    def init_app(self, app: Flask, **options: Any) -> None:
        """Register with an application; *options* as for the class, for this application alone.

        Raises:
            ConfigurationError: There is no tenancy, or a setting is wrong.
            RuntimeError: Another ``Tenantry`` is registered with the application already.
        """
        if "tenantry" in app.extensions:
            raise RuntimeError(
                "a Tenantry is registered with this Flask app already; use that one, "
                "app.extensions['tenantry']"
            )
        unknown = options.keys() - self._defaults.keys()
        if unknown:
            raise TypeError(f"init_app() takes no {', '.join(sorted(unknown))}")
        chosen = {**self._defaults, **options}
        tenancy = chosen["tenancy"] or _tenancy_of_settings(app)
        if tenancy is None:
            raise ConfigurationError(
                "Tenantry needs a tenancy; give Tenantry(app, tenancy=...) or set TENANTRY_FILE "
                "or TENANTRY_ENV_PREFIX"
            )
        resolver = chosen["resolver"]
        state = AppState(
            tenancy=tenancy if callable(tenancy) else lambda: tenancy,
            resolver=as_resolver(resolver) if resolver is not None else _resolver_of_settings(app),
            db=chosen["db"],
            claims=chosen["claims"],
            is_shared=chosen["is_shared"],
            shared_endpoints=_endpoints_of_settings(app),
            pinned=app.config.get("TENANTRY_TENANT"),
        )
        if state.pinned is not None and not callable(tenancy):
            tenancy.pin(state.pinned)
        app.extensions["tenantry"] = state
        try:
            if state.db is not None:
                state.close_sessions = _adopt(state.db, app)
        except BaseException:
            del app.extensions["tenantry"]
            raise
        app.wsgi_app = _App(app, app.wsgi_app)  # type: ignore[method-assign]
        # The first of all: no function of the application runs before it.
        app.before_request_funcs.setdefault(None, []).insert(0, _before_request)
        app.teardown_request(_after_request)
        app.teardown_appcontext(_close_sessions)
        app.register_error_handler(VisitorError, _refuse)
        app.register_error_handler(OperatorError, _refuse)
        app.context_processor(lambda: {"current_tenant": current()})
        app.shell_context_processor(lambda: _shell(state))
        _add_commands(app, state)

    # In a request ---------------------------------------------------------------------------

    @property
    def tenancy(self) -> Tenancy:
        """The Tenancy of the current application.

        Raises:
            ConfigurationError: It has none.
        """
        return _tenancy(_state())

    @property
    def session(self) -> TenantSession:
        """A session of the current tenant; the same one within a request, closed at its end.

        Raises:
            NoTenantError: No tenant is current.
        """
        sessions: dict[object, TenantSession] = g.setdefault("_tenantry_sessions", {})
        scope = request_scope()
        if scope not in sessions:
            sessions[scope] = self.tenancy.session()
        return sessions[scope]

    def choose_tenant(self, tenant: str | Tenant) -> Tenant:
        """Enter a tenant until the request ends; for ``before_request``, where a login is known.

        *tenant* is an identifier or a Tenant. In an application context without a request it
        holds until that ends.

        Raises:
            TenantSwitchError: One was chosen before, or the request is for another tenant.
            UnknownTenantError: There is no such tenant.
            TenantSuspendedError: And its siblings: its state serves no requests.
        """
        return choose_tenant(self.tenancy, tenant)


def choose_tenant(
    tenancy: Tenancy,
    tenant: str | Tenant,
    chosen_before: Callable[[], TenantryError] = TenantSwitchError,
) -> Tenant:
    """See :meth:`Tenantry.choose_tenant`; *chosen_before* makes the error for a second choice."""
    notes = request.environ if has_request_context() else g.setdefault("_tenantry_notes", {})
    if _CHOSEN in notes:
        raise chosen_before()
    known = tenant if isinstance(tenant, Tenant) else tenancy.find(tenant)
    if SCOPE not in notes:
        notes[SCOPE] = ExitStack()
        notes[_UNSERVED] = True
    entered = cast(Tenant, notes[SCOPE].enter_context(use(known)))
    notes[TENANT] = notes[_CHOSEN] = entered
    return entered


def request_scope() -> tuple[int, str]:
    """What a session is kept for: a request (or none) and a tenant (or the shared place)."""
    tenant = current()
    nobodys = "(shared)" if in_shared() else ""
    whose = tenant.stamp if tenant is not None else nobodys
    return id(request.environ) if has_request_context() else 0, whose


class _App:
    """``app.wsgi_app``, called in the context of the request's tenant."""

    def __init__(self, app: Flask, inner: WSGIApplication) -> None:
        self._app = app
        self._inner = inner

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def begin(scope: ExitStack) -> None:
            _begin(self._app, environ, scope)

        return run_in_context(self._inner, environ, start_response, begin, _fresh_context())


def _fresh_context() -> contextvars.Context:
    """A copy of this context in which Flask has nothing pushed, as on a server.

    With an ``app_context()`` around several requests of a test client, as fixtures have it,
    Flask lets them share it: ``g`` and the scoped session of one request would be the next one's.
    """
    copied = contextvars.copy_context()
    if not any(variable.name in _FLASK_CONTEXTS for variable in copied):
        return copied
    fresh = contextvars.Context()
    for variable, value in copied.items():
        if variable.name not in _FLASK_CONTEXTS:
            fresh.run(variable.set, value)
    return fresh


def _begin(app: Flask, environ: WSGIEnvironment, scope: ExitStack) -> None:
    """Enter the request's tenant. What is wrong with it is kept for Flask's error handlers."""
    state: AppState = app.extensions["tenantry"]
    environ.pop(_ERROR, None)
    environ.pop(_CHOSEN, None)
    if state.resolver is None and SCOPE in environ:
        return  # a TenantMiddleware around the application has entered the tenant
    scope.enter_context(nobody())
    try:
        facts = facts_of(
            environ,
            session=_LazySession(app, environ),
            claims=state.claims(environ) if state.claims is not None else None,
        )
        if state.is_shared is not None and state.is_shared(facts):
            scope.enter_context(shared())
        elif state.resolver is not None:
            found = identify(_tenancy(state), state.resolver, facts)
            if found is not None:
                if state.pinned not in (None, found[0].id):
                    raise TenantMismatchError
                enter(environ, scope, *found)
            elif state.pinned is None:
                environ[_ERROR] = TenantNotIdentifiedError()
    except Exception as error:
        environ[_ERROR] = error


class _LazySession(Mapping[str, Any]):
    """Flask's session for a resolver; opened if one asks, for Flask opens its own later."""

    def __init__(self, app: Flask, environ: WSGIEnvironment) -> None:
        self._app = app
        self._environ = environ
        self._opened: Mapping[str, Any] | None = None

    def _open(self) -> Mapping[str, Any]:
        if self._opened is None:
            asked = self._app.request_class(self._environ)
            self._opened = self._app.session_interface.open_session(self._app, asked) or {}
        return self._opened

    def __getitem__(self, key: str) -> Any:
        return self._open()[key]

    def __iter__(self) -> Any:
        return iter(self._open())

    def __len__(self) -> int:
        return len(self._open())


def _before_request() -> None:
    """Put the request into a shared block, or refuse it if its tenant is missing or wrong."""
    environ = request.environ
    scope = environ.get(SCOPE)
    if scope is None:
        # No server called: `test_request_context()` with `preprocess_request()`.
        scope = ExitStack()
        environ[_UNSERVED] = True
        _begin(current_app._get_current_object(), environ, scope)  # type: ignore[attr-defined]
        environ[SCOPE] = scope
    if _is_shared_request():
        environ.pop(TENANT, None)
        environ.pop(SOURCE, None)
        scope.enter_context(shared())
        return
    error = environ.get(_ERROR)
    if error is None:
        return
    if isinstance(error, TenantNotIdentifiedError) and _needs_no_tenant():
        return
    raise error


def _is_shared_request() -> bool:
    endpoint = request.endpoint
    if endpoint is None:
        return False
    state = _state()
    view = current_app.view_functions.get(endpoint)
    return bool(getattr(view, _MARK, False)) or any(
        fnmatchcase(endpoint, pattern) for pattern in state.shared_endpoints
    )


def _needs_no_tenant() -> bool:
    """Flask answers by itself: no such page, or what methods it has (a browser's CORS question)."""
    rule = request.url_rule
    return request.routing_exception is not None or (
        request.method == "OPTIONS"
        and rule is not None
        and getattr(rule, "provide_automatic_options", False)
    )


def _after_request(error: BaseException | None) -> None:
    _close_sessions_of(id(request.environ))
    if request.environ.pop(_UNSERVED, False):
        request.environ.pop(SCOPE).close()


def _close_sessions(error: BaseException | None) -> None:
    _close_sessions_of(None)
    scope = g.pop("_tenantry_notes", {}).get(SCOPE)
    if scope is not None:
        scope.close()


def _close_sessions_of(request_id: int | None) -> None:
    """Close the sessions of one request, or all of the application context."""
    sessions: dict[tuple[int, str], TenantSession] = g.get("_tenantry_sessions", {})
    for scope in [each for each in sessions if request_id in (None, each[0])]:
        sessions.pop(scope).close()
    close = _state().close_sessions
    if close is not None:
        close(request_id)


def _refuse(error: TenantryError) -> ResponseReturnValue:
    """Answer as Flask answers any HTTP error, so that the application's own pages are shown."""
    note_refusal(error)
    status, words, headers = answer_to(error)
    answer = current_app.handle_http_exception(default_exceptions[status](words))
    if isinstance(answer, HTTPException):
        response = answer.get_response(request.environ)
    else:
        response = current_app.make_response(answer)
    for name, value in headers:
        response.headers[name] = value
    return cast(ResponseReturnValue, response)


# What the settings say --------------------------------------------------------------------


def _tenancy_of_settings(app: Flask) -> Tenancy | None:
    from ..tenancy import Tenancy

    file, prefix = app.config.get("TENANTRY_FILE"), app.config.get("TENANTRY_ENV_PREFIX")
    if file is not None and prefix is not None:
        raise ConfigurationError("set one of TENANTRY_FILE and TENANTRY_ENV_PREFIX, not both")
    if file is not None:
        return Tenancy.from_file(Path(app.root_path, file))
    return Tenancy.from_env(prefix) if prefix is not None else None


def _resolver_of_settings(app: Flask) -> Resolver | None:
    makers: dict[str, Callable[[Any], Resolver]] = {
        "TENANTRY_SUBDOMAIN_OF": from_subdomain,
        "TENANTRY_HEADER": from_header,
        "TENANTRY_QUERY": from_query,
    }
    found = [make(app.config[key]) for key, make in makers.items() if app.config.get(key)]
    return first_of(*found) if found else None


def _endpoints_of_settings(app: Flask) -> tuple[str, ...]:
    value = app.config.get("TENANTRY_SHARED_ENDPOINTS", ())
    if isinstance(value, str):
        raise ConfigurationError("TENANTRY_SHARED_ENDPOINTS is a list such as ['health', 'docs.*']")
    return (*_SHARED_ENDPOINTS, *value)


def _state() -> AppState:
    state: AppState | None = current_app.extensions.get("tenantry")
    if state is None:
        raise RuntimeError(
            "the current Flask app is not registered with a Tenantry; call init_app(app) first"
        )
    return state


def _tenancy(state: AppState) -> Tenancy:
    tenancy = state.tenancy()
    if tenancy is None:
        raise ConfigurationError("this Flask app has no tenants")
    return tenancy


def _adopt(db: Any, app: Flask) -> Callable[[int | None], None]:
    """Have *db* go to the current tenant's database; returns what closes its sessions."""
    homes = {each.__module__.partition(".")[0] for each in type(db).__mro__}
    if "flask_sqlalchemy" in homes:
        from . import flask_sqlalchemy

        return flask_sqlalchemy.adopt(db, app)
    if "flask_sqlalchemy_lite" in homes:
        from . import flask_sqlalchemy_lite

        return flask_sqlalchemy_lite.adopt(db, app)
    raise ConfigurationError(
        f"db={type(db).__name__} is none that Tenantry knows; give the SQLAlchemy object of "
        "Flask-SQLAlchemy 3 or Flask-SQLAlchemy-Lite, or leave it out and use .session"
    )


def _add_commands(app: Flask, state: AppState) -> None:
    """``flask tenants ...``; a command of this name that the application has stays its own."""
    from ..cli.main import tenants_group

    if "tenants" not in app.cli.commands:
        app.cli.add_command(tenants_group(lambda: _tenancy(state), around=app.app_context))


def _shell(state: AppState) -> dict[str, Any]:
    tenancy = state.tenancy()
    if tenancy is None:
        return {}
    return {
        "tenancy": tenancy,
        "use": tenancy.use,
        "choose_tenant": lambda tenant: choose_tenant(tenancy, tenant),
        "current_tenant": current_tenant,
    }
