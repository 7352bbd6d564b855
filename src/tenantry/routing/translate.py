"""Errors of the server that mean something to us, in our words; the cause is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import ExceptionContext

from ..errors import TenantReadOnlyError, TenantryError
from . import guard
from .missing import missing_place
from .pool import BucketRecord, RoutedPool

if TYPE_CHECKING:
    from ..isolation import Target

__all__ = ["translate"]


def translate(context: ExceptionContext) -> None:
    """SQLAlchemy's event ``handle_error``.

    Raises:
        TenantReadOnlyError: The server refused a write because the tenant serves reads only.
        PlacementMissingError: A table is missing because the tenant's whole place is.
    """
    connection: Any = context.connection
    if connection is None or connection._dbapi_connection is None:
        return
    record = connection._dbapi_connection._connection_record
    if not isinstance(record, BucketRecord):
        return
    target = record.target
    error = context.original_exception
    if target.backend.is_stale_plan(error):
        guard.forget_prepared(record)
    if target.read_only and target.backend.is_read_only_refusal(error):
        raise TenantReadOnlyError(
            f"tenant {target.owner!r} serves reads only for the moment; try the write later",
            tenant_id=target.tenant_id,
        )
    if target.backend.is_missing_table(error) and not _place_exists(record.pool, target):
        raise missing_place(target)


def _place_exists(pool: RoutedPool, target: Target) -> bool:
    """Asked on a connection of its own: the one that failed is in a failed transaction."""
    query = target.backend.place_exists(target.schema or target.switch_to)
    if query is None:
        return True
    try:
        connection = pool.open_as_known(target)
    except TenantryError:
        return True  # the error at hand says more
    try:
        cursor = connection.cursor()
        cursor.execute(query)
        found = cursor.fetchone() is not None
        cursor.close()
        return found
    finally:
        connection.close()
