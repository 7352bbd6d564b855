"""Sends statements as they are: what a percent sign or a colon means is the server's business."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

from sqlalchemy import Connection

from ..routing.send import send_blocking

__all__ = ["exec_all", "run", "send"]


def run(connection: Connection, statement: str) -> Any:
    """*statement* as it is: a percent sign or a colon is only itself."""
    return connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def exec_all(connection: Connection, *statements: str) -> None:
    """*statements*, each as :func:`run` does."""
    for statement in statements:
        run(connection, statement)


def send(connection: Connection, message: str) -> str | None:
    """Straight to the driver: a message of several statements is nothing SQLAlchemy looks at.

    Returns the first value that the last of them gives; ``None``: it gives none.
    """
    driver: Any = connection.connection.driver_connection
    if getattr(driver, "prepare_threshold", None) is not None:
        driver.prepare_threshold = None  # what is prepared would be met by another place
    execute = partial(send_blocking if hasattr(driver, "pgconn") else _by_cursor, driver)
    try:
        return execute(message)
    except BaseException:
        with contextlib.suppress(Exception):
            execute("ROLLBACK")
        raise


def _by_cursor(driver: Any, message: str) -> str | None:
    """As :func:`send_blocking`, through psycopg2."""
    with contextlib.closing(driver.cursor()) as cursor:
        cursor.execute(message)
        row = cursor.fetchone() if cursor.description else None
        return None if row is None else str(row[0])
