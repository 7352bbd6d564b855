"""Runs the application on this machine, and asks it as a visitor would."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from ..errors import CallerError
from .application import HEADER

__all__ = ["QUESTIONS", "Question", "ask", "claimed", "served"]


class _Quiet(WSGIRequestHandler):
    """The screen is for the transcript."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


@contextmanager
def claimed(port: int = 0) -> Iterator[socket.socket]:
    """A socket that has *port* of 127.0.0.1 (0: a free one), before anything is made.

    Raises:
        CallerError: The port is taken, or may not be used.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(64)
        except OSError as error:
            raise CallerError(
                f"port {port} of 127.0.0.1 cannot be used: {error.strerror}; name another with "
                "--port, or leave that out for a free one"
            ) from None
        yield listener


@contextmanager
def served(app: Flask, listener: socket.socket) -> Iterator[int]:
    """Serve *app* on the socket, in threads; yields the port."""
    port: int = listener.getsockname()[1]
    server = make_server(
        "127.0.0.1", port, app, threaded=True, request_handler=_Quiet, fd=listener.fileno()
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Question:
    """A request of the transcript; *host* without its port, ``None`` for the address."""

    path: str = "/"
    host: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def command(self, port: int) -> str:
        """What to type to ask the same."""
        parts = [f"-H '{name}: {value}'" for name, value in self.headers.items()]
        address = f"http://{self.host or '127.0.0.1'}:{port}{self.path}"
        return " ".join(["curl", *parts, f"'{address}'" if "?" in address else address])


QUESTIONS = (
    Question("/?tenant=uk"),
    Question(headers={HEADER: "aus"}),
    Question(host="eu.localhost"),
    Question(),
    Question("/?tenant=mars"),
    Question("/?tenant=nz"),
    Question("/?tenant=aus", host="uk.localhost"),
)


def ask(question: Question, port: int) -> tuple[int, dict[str, Any]]:
    """Ask over HTTP: the status, and what the application answered."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        host = f"{question.host or '127.0.0.1'}:{port}"
        headers = {"Host": host, "Accept": "application/json", **question.headers}
        connection.request("GET", question.path, headers=headers)
        response = connection.getresponse()
        content: dict[str, Any] = json.loads(response.read())
        return response.status, content
    finally:
        connection.close()
