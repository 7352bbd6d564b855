"""Opening one connection: the only place where a secret meets a driver.

What a driver raises here may repeat the password, and the frames of its traceback hold it.
So its error is described anew, without frames, and ours is raised from that.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect

from ..errors import PlacementMissingError, ServerUnavailableError, TenantryError
from ..isolation import Target
from ..servers import Server
from .missing import missing_place

__all__ = ["open_connection", "unavailable"]


def open_connection(dialect: Dialect, target: Target, pooled: bool) -> DBAPIConnection:
    """A new connection to the target's place; *pooled*: a transaction pooler stands before it.

    Raises:
        PlacementMissingError: The server answers, and has no such database.
        ServerUnavailableError: The server does not answer, or refuses the login.
        MissingVariableError: The variable that holds the password is not set.
    """
    error: BaseException
    try:
        return _dial(dialect, target, pooled)
    except TenantryError as ours:
        if ours.tenant_id is not None or target.tenant is None:
            raise
        error = ours
    except BaseException as theirs:
        error = theirs
    if not isinstance(error, Exception):  # a cancellation, an interrupt
        raise error.with_traceback(None)
    if isinstance(error, PlacementMissingError):
        raise missing_place(target)
    if isinstance(error, TenantryError):
        raise error.with_traceback(None)
    found = unavailable(target, error)
    del error
    raise found


def unavailable(target: Target, error: Exception) -> TenantryError:
    """What a driver's *error* on opening a connection is to the tenant; without secrets."""
    found: TenantryError
    cause = _described(error, target.server)
    if target.backend.is_missing_database(error):
        found = missing_place(target)
    else:
        whom = f"tenant {target.tenant.id!r}" if target.tenant is not None else "the shared place"
        found = ServerUnavailableError(
            f"server {target.server.name!r} gave no connection for {whom} "
            f"({type(cause).__name__}); `tenantry doctor` tells which servers answer",
            tenant_id=target.tenant_id,
            server=target.server.name,
        )
    found.__cause__ = cause
    return found


def _dial(dialect: Dialect, target: Target, pooled: bool) -> DBAPIConnection:
    server = target.server
    target.backend.before_connect(server, target.attach or target.url.database)
    args, options = dialect.create_connect_args(server.url_with_secrets(target.url))
    arguments, parameters = list(args), {**options, **server.connect_args}
    target.backend.add_settings(
        parameters, target.url.get_driver_name(), {} if pooled else target.settings, pooled
    )
    if dialect._has_events:
        for listener in dialect.dispatch.do_connect:
            made: DBAPIConnection | None = listener(dialect, None, arguments, parameters)
            if made is not None:
                return made
    return dialect.connect(*arguments, **parameters)


def _described(error: Exception, server: Server) -> Exception:
    """A new error of the same class with the same words, less secrets, frames and causes."""
    secrets = []
    for secret in (server.password, *server.secret_query.values()):
        # A secret that could not be read is in no message.
        with suppress(Exception):
            if secret is not None:
                secrets.append(secret.reveal())

    def scrubbed(value: Any) -> Any:
        if not isinstance(value, str):
            return value if isinstance(value, int) else type(value).__name__
        for secret in secrets:
            if secret:
                value = value.replace(secret, "***")
        return value

    arguments = [scrubbed(each) for each in error.args] or [scrubbed(str(error))]
    try:
        return type(error)(*arguments)
    except Exception:  # an error class with a constructor of its own
        return RuntimeError(f"{type(error).__name__}: {' '.join(map(str, arguments))}")
