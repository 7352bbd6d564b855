"""Tenants on SQLite for the tests of integrations: each has one note, which names it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from sqlalchemy import text

from tenantry import Server, State, Tenancy
from tenantry.directory import MappingDirectory

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

READ = text("SELECT body FROM notes ORDER BY id")


def tenancy_in(folder: Path, *tenant_ids: str, **options: Any) -> Tenancy:
    """A Tenancy with a file for each tenant below *folder*, and a note in each.

    A tenant called ``shut`` is suspended, and one called ``moving`` is being moved.
    """
    from tenantry import Placement, Tenant

    states = {"shut": State.SUSPENDED, "moving": State.MOVING}
    server = Server.from_url("files", f"sqlite:///{folder}", create_missing=True)
    tenants = [
        Tenant(each, Placement("files", database=f"{each}.db"), states.get(each, State.READY))
        for each in tenant_ids
    ]
    directory = MappingDirectory(tenants, servers={"files": server})
    tenancy = Tenancy(directory, [server], **options)
    for tenant in tenants:
        if tenant.state is State.READY:
            with tenancy.use(tenant.id), tenancy.session() as session:
                session.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)"))
                add_note(session, tenant.id)
                session.commit()
    return tenancy


def add_note(session: Any, body: str) -> None:
    session.execute(text("INSERT INTO notes (body) VALUES (:body)"), {"body": body})


def notes(tenancy: Tenancy) -> list[str]:
    """The notes of who is current."""
    with tenancy.session() as session:
        return list(session.scalars(READ))


@dataclass
class Answer:
    """What a WSGI application answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def call(app: WSGIApplication, path: str = "/", query: str = "", **environ: Any) -> Answer:
    """Call a WSGI application as a server does: all of the body, then close."""
    said: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        said[:] = [int(status.split()[0]), dict(headers)]
        return None

    body = app(environ_of(path, query, **environ), start_response)
    try:
        read = b"".join(body)
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()
    return Answer(said[0], said[1], read)


def unheard(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
    """A server's ``start_response`` for a test that looks at the body alone."""


def environ_of(path: str = "/", query: str = "", **environ: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.version": (1, 0),
        "REMOTE_ADDR": "127.0.0.1",
        **environ,
    }


class _Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def serving(app: WSGIApplication) -> Iterator[Callable[..., Answer]]:
    """A real threaded server; yields a function that asks it over HTTP."""
    server = make_server("127.0.0.1", 0, app, server_class=_Threaded, handler_class=_Quiet)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()

    def ask(path: str, method: str = "GET", **headers: str) -> Answer:
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    try:
        yield ask
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
