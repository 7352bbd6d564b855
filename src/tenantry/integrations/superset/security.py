"""Guest tokens, requests and error texts inside Superset: refused early, shown to nobody else."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Response, current_app, g, has_request_context, jsonify, request

from tenantry import events
from tenantry.errors import TenantryError, VisitorError
from tenantry.integrations.superset.visitor import Visitors

_logger = logging.getLogger("tenantry.superset")

_WORDS = frozenset({"message", "error", "stacktrace", "errors"})
"""The keys of an answer whose texts a person reads."""

_OWN_WORDS = frozenset({401, 403, 404, 405, 429})
"""Answers that Superset gives before it asks any database: their texts stay."""


def secured(manager: type[Any], visitors: Visitors) -> type[Any]:
    """A subclass of the security manager *manager* that knows tenants.

    Guests of unknown, suspended and deleted tenants are nobody, in requests and on workers.
    A token that Superset makes itself carries the tenant and its key.
    """

    class TenantSecurityManager(manager):  # type: ignore[misc]  # known at run time only
        tenantry_visitors = visitors
        guest_user_cls = _let_in(getattr(manager, "guest_user_cls", None))

        def get_guest_user_from_token(self, token: Any) -> Any:
            try:
                visitors.of_token(token)
            except VisitorError as error:
                _refused(error)
                return None
            return super().get_guest_user_from_token(token)

        def create_guest_access_token(self, user: Any, resources: Any, rls: Any) -> Any:
            tenant = visitors.named(_asked_for(visitors, user))
            made = super().create_guest_access_token(user, resources, rls)
            claims = self.pyjwt_for_guest_token.decode(made, options={"verify_signature": False})
            claims |= {"tenant": tenant.id, "tenant_key": tenant.key}
            return self.pyjwt_for_guest_token.encode(
                claims,
                current_app.config["GUEST_TOKEN_JWT_SECRET"],
                algorithm=current_app.config["GUEST_TOKEN_JWT_ALGO"],
            )

        def get_rls_cache_key(self, datasource: Any) -> Any:
            # A second line: right even where a cache's prefix was configured away.
            tenant = visitors.guest_tenant()
            return [
                *super().get_rls_cache_key(datasource),
                f"tenantry={tenant.stamp if tenant else '-'}",
            ]

    TenantSecurityManager.__name__ = f"Tenant{manager.__name__}"
    return TenantSecurityManager


def _let_in(guest: Any) -> Any:
    """The class of guests, such that Flask-AppBuilder lets them in.

    From its release 5 on it asks for ``is_active``, which Superset 6.0's guests have from
    Flask-Login's anonymous visitors, where it says no: each of their charts answers 403
    (apache/superset#39682). Superset 6.1 and an own class say it themselves and are left alone.
    """
    homes = [each for each in getattr(guest, "__mro__", ()) if "is_active" in vars(each)]
    if not homes or not homes[0].__module__.startswith("flask_login"):
        return guest
    return type(guest.__name__, (guest,), {"is_active": True})


def mint_hook(
    visitors: Visitors, before: Callable[[Any], Any] | None = None
) -> Callable[[Any], bool]:
    """Superset's ``GUEST_TOKEN_VALIDATOR_HOOK``: no token for a tenant that serves nobody."""

    def hook(body: Any) -> bool:
        try:
            visitors.named(_asked_for(visitors, body.get("user") or {}))
        except VisitorError as error:
            _refused(error)
            return False
        return before is None or bool(before(body))

    return hook


def _asked_for(visitors: Visitors, user: Mapping[str, Any]) -> object:
    """The tenant that the host application asks a token for.

    Superset drops what it does not know from the body, so ``user.tenant`` is read from the
    request itself; only accounts that may make guest tokens get this far.
    """
    sent = request.get_json(silent=True) if has_request_context() else None
    person = sent.get("user") if isinstance(sent, dict) else None
    if "tenant" in visitors.claims and isinstance(person, dict) and "tenant" in person:
        return person["tenant"]
    return user.get("username") if "username" in visitors.claims else None


def _refused(error: TenantryError) -> None:
    _logger.warning("guest refused: %s", error)
    events.emit(events.Refused(error.tenant_id, type(error).__name__))


def install(app: Flask) -> None:
    """Add what Superset has no setting for: hooks around every request, and our errors."""
    # First of all and last of all: whatever another extension decides, this holds.
    app.before_request_funcs.setdefault(None, []).insert(0, guest_token_wins)
    app.after_request_funcs.setdefault(None, []).insert(0, guard_answer)
    app.register_error_handler(TenantryError, _answer_for)


def _raw_guest_token() -> str | None:
    name = current_app.config.get("GUEST_TOKEN_HEADER_NAME", "X-GuestToken")
    raw = request.headers.get(name)
    if raw is None and request.mimetype in (
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ):
        raw = request.form.get("guest_token")
    return raw


def guest_token_wins() -> None:
    """Let a guest token outrank a session cookie.

    Flask-Login asks for the token only where no session is found, so an administrator's
    browser would show an administrator's rows in a guest's dashboard. A token that is refused
    makes the request nobody's, whatever else it carries.
    """
    if _raw_guest_token() is None:
        return
    manager = current_app.extensions["appbuilder"].sm
    guest = manager.request_loader(request)
    # Where Flask-Login looks first.
    g._login_user = guest if guest is not None else current_app.login_manager.anonymous_user()  # type: ignore[attr-defined]


def guard_answer(response: Response) -> Response:
    """Keep a guest's answers out of shared caches, and database words out of their errors."""
    if _raw_guest_token() is None:
        return response
    response.headers["Cache-Control"] = "private, no-store"
    response.headers.pop("Expires", None)
    response.headers.add("Vary", current_app.config.get("GUEST_TOKEN_HEADER_NAME", "X-GuestToken"))
    asynchronous = request.path.startswith("/api/v1/async_event/")
    failed = response.status_code >= 400 and response.status_code not in _OWN_WORDS
    if (failed or asynchronous) and response.is_json and not response.is_streamed:
        _make_safe(response)
    return response


def _make_safe(response: Response) -> None:
    try:
        body = json.loads(response.get_data())
    except ValueError:
        return
    reference = uuid.uuid4().hex[:12]
    text = f"This could not be loaded. Reference: {reference}"
    safe = _without_words(body, text)
    if safe != body:
        # Superset has logged the error itself a moment ago; this line ties the two together.
        _logger.warning(
            "guest error %s: %s %s answered %d",
            *(reference, request.method, request.path, response.status_code),
        )
        response.set_data(json.dumps(safe))


def _without_words(value: Any, text: str) -> Any:
    """*value* with *text* in the place of everything that a person would read."""

    def walk(part: Any, worded: bool) -> Any:
        if isinstance(part, dict):
            return {
                key: walk(inner, key in _WORDS or (worded and key not in ("error_type", "level")))
                for key, inner in part.items()
            }
        if isinstance(part, list):
            return [walk(inner, worded) for inner in part]
        if isinstance(part, str) and worded and part:
            return text
        return part

    return walk(value, False)


def _answer_for(error: TenantryError) -> Any:
    """Our error in the form that Superset's pages understand (SIP-40)."""
    _logger.warning("refused: %s", error)
    problem = {
        "message": str(error),
        "error_type": "GENERIC_BACKEND_ERROR",
        "level": "error",
        "extra": {},
    }
    answer = jsonify({"errors": [problem]})
    answer.status_code = error.http_status
    if error.retry_after_seconds is not None:
        answer.headers["Retry-After"] = str(error.retry_after_seconds)
    return answer
