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


def send(connection: Connection, message: str) -> None:
    """Straight to the driver: a message of several statements is nothing SQLAlchemy looks at."""
    driver: Any = connection.connection.driver_connection
    if getattr(driver, "prepare_threshold", None) is not None:
        driver.prepare_threshold = None  # what is prepared would be met by another place
    with contextlib.closing(driver.cursor()) as cursor:
        execute = partial(send_blocking, driver) if hasattr(driver, "pgconn") else cursor.execute
        try:
            execute(message)
        except BaseException:
            with contextlib.suppress(Exception):
                execute("ROLLBACK")
            raise
