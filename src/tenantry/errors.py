"""Every exception of tenantry.

::

    TenantryError
    |-- CallerError                      the code that called used it wrongly
    |   |-- NoTenantError                no tenant is current
    |   |-- TenantSwitchError            another tenant is current already
    |   `-- CrossTenantError             an object or connection of another tenant
    |-- VisitorError                     the visitor's request cannot be served
    |   |-- TenantNotIdentifiedError     the request names no tenant             400
    |   |-- InvalidTokenError            the token that names the tenant is bad   401
    |   |-- TenantMismatchError          two sources name different tenants      403
    |   |-- UnknownTenantError           no such tenant                          404
    |   |   `-- InvalidTenantIdError     not even a possible tenant id           404
    |   |-- TenantSuspendedError                                                 403
    |   |-- TenantNotReadyError          still being created                     503
    |   |-- TenantMovingError                                                    503
    |   |-- TenantReadOnlyError          a write while only reads are served     503
    |   `-- TenantDeletedError           being deleted, or deleted               404
    |-- OperatorError                    the installation needs somebody
    |   |-- ServerUnavailableError       a database server does not answer
    |   |-- PlacementMissingError        the server answers, the database is gone
    |   |-- DirectoryUnavailableError    the directory cannot be read
    |   |-- BudgetExhaustedError         no connection became free in time
    |   |-- ProvisionError               a tenant could not be created or deleted
    |   |-- MigrationError               a revision could not be applied
    |   `-- FleetError                   fleet work failed for some tenants
    `-- ConfigurationError               the developer's settings are wrong
        |-- DuplicatePlacementError      two tenants in one place
        |-- DirectoryFileError           an unreadable TOML file
        |-- MissingVariableError         an environment variable is not set
        |-- MissingDependencyError       an extra is not installed
        `-- UnsupportedError             that server or version cannot do it

The families say who must act. None of them derives from a database error, so that code
which retries database errors never retries a leak. No message holds a password, a URL or
a row value.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ClassVar, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=BaseException)


class TenantryError(Exception):
    """Something went wrong in tenantry."""

    http_status: ClassVar[int] = 500
    retry_after_seconds: ClassVar[int | None] = None

    def __init__(self, message: str | None = None, *, tenant_id: str | None = None) -> None:
        super().__init__(message if message is not None else self._default_message())
        self.tenant_id = tenant_id

    @classmethod
    def _default_message(cls) -> str:
        text = inspect.cleandoc(cls.__doc__ or cls.__name__)
        return " ".join(text.split("\n\n", 1)[0].split())


class CallerError(TenantryError):
    """The calling code used tenantry wrongly."""


class NoTenantError(CallerError):
    """no tenant is current; wrap the call in `with tenancy.use(...)`, or in
    `with tenancy.shared()` if none is meant. Threads and executors start without a tenant:
    hand it over with `carry(fn)`.
    """


class TenantSwitchError(CallerError):
    """another tenant is current already; leave its block first, or say `switch=True`
    if the change is meant.
    """


class CrossTenantError(CallerError):
    """an object or connection of one tenant was used under another; load the object anew
    in a session of the tenant that needs it.
    """


class VisitorError(TenantryError):
    """The visitor's request cannot be served."""

    http_status = 400


class TenantNotIdentifiedError(VisitorError):
    """the request names no tenant; send the header, host name, path or argument that the
    application's resolver reads, or mark the route as shared.
    """


class InvalidTokenError(VisitorError):
    """the token that names the tenant is not valid; log in again."""

    http_status = 401


class TenantMismatchError(VisitorError):
    """two sources of the request name different tenants; log in to the tenant that the
    address names.
    """

    http_status = 403


class UnknownTenantError(VisitorError):
    """no tenant has this identifier; `tenantry list` shows those that exist."""

    http_status = 404


class InvalidTenantIdError(UnknownTenantError):
    """this is not a tenant id; ids match [a-z][a-z0-9_-]{0,47} and are not reserved words."""


class TenantSuspendedError(VisitorError):
    """the tenant is suspended; `tenantry resume` opens it again."""

    http_status = 403


class TenantNotReadyError(VisitorError):
    """the tenant is still being created; try again shortly."""

    http_status = 503
    retry_after_seconds = 5


class TenantMovingError(VisitorError):
    """the tenant is being moved; try again shortly."""

    http_status = 503
    retry_after_seconds = 5


class TenantReadOnlyError(VisitorError):
    """the tenant serves reads only for the moment; try the write again later."""

    http_status = 503
    retry_after_seconds = 30


class TenantDeletedError(VisitorError):
    """the tenant is deleted or being deleted."""

    http_status = 404


class OperatorError(TenantryError):
    """The installation needs somebody to look at it."""

    http_status = 503
    retry_after_seconds = 5


class ServerUnavailableError(OperatorError):
    """the database server does not answer; `tenantry doctor` tells which servers do."""

    def __init__(
        self, message: str | None = None, *, tenant_id: str | None = None, server: str | None = None
    ) -> None:
        super().__init__(message, tenant_id=tenant_id)
        self.server = server


class PlacementMissingError(OperatorError):
    """the database or schema of the tenant does not exist on its server;
    `tenantry doctor` compares the directory with the servers.
    """


class DirectoryUnavailableError(OperatorError):
    """the tenant directory cannot be read; check the control database."""


class BudgetExhaustedError(OperatorError):
    """no database connection became free in time; shorten the transactions that hold them
    or raise the budget.
    """


class ProvisionError(OperatorError):
    """the tenant could not be created or deleted; run the same command again, every step
    may be repeated.
    """


class MigrationError(OperatorError):
    """a revision could not be applied to the tenant, which stands at its last complete one;
    repair the cause and run the same command again.
    """


class FleetError(OperatorError):
    """the work failed for some tenants; the message names them."""


class ConfigurationError(TenantryError):
    """A setting is wrong; the developer must change it."""


class DuplicatePlacementError(ConfigurationError):
    """two tenants are placed in the same database, schema or file; give each its own."""


class DirectoryFileError(ConfigurationError):
    """the tenants file cannot be understood; the message names the line and the key."""


class MissingVariableError(ConfigurationError):
    """an environment variable is not set."""


class MissingDependencyError(ConfigurationError):
    """an optional dependency is not installed; the message gives the install command."""


class UnsupportedError(ConfigurationError):
    """this server, driver or library version cannot do that."""


def without_frames(error: E) -> E:
    """Cut the frames off *error* and all it came from, and return it.

    The frames of a driver hold the password in their local variables, and error reporters show
    those. Errors that a ``from None`` hides are dropped: their text may hold a URL.
    """
    todo: list[BaseException] = [error]
    seen: set[int] = set()
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        each.__traceback__ = None
        if each.__suppress_context__:
            each.__context__ = None
        causes = (each.__cause__, each.__context__, getattr(each, "orig", None))
        todo += [cause for cause in causes if isinstance(cause, BaseException)]
    return error


def bare_errors(function: Callable[P, R]) -> Callable[P, R]:
    """For a function whose arguments hold secrets: its errors of ours carry no frame of it."""

    @functools.wraps(function)
    def bare(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TenantryError as error:
            problem = without_frames(error)
        del args, kwargs
        raise problem

    return bare
