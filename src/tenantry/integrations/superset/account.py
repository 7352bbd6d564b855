"""An account of a running Superset, over its REST interface: one conversation, two doors."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from tenantry.errors import (
    ConfigurationError,
    MissingDependencyError,
    ServerUnavailableError,
    TenantryError,
)
from tenantry.servers import Secret

if TYPE_CHECKING:
    import httpx

Steps = Generator["httpx.Request", "httpx.Response", "httpx.Response"]


def http() -> Any:
    """The module ``httpx``.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import httpx
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "talking to Superset needs httpx; run `pip install httpx`"
        ) from None
    return httpx


class Account:
    """What is said to Superset in an account's name; a client of httpx says it.

    Logs in when first needed and again when the log-in has expired. Superset asks accounts for
    a CSRF token besides, which belongs to the client's cookies.
    """

    def __init__(self, url: str, username: str, password: str | Secret) -> None:
        self.url = url.rstrip("/")
        self._username = username
        self._password = password if isinstance(password, Secret) else Secret(password)
        self._headers: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {self._username!r})"

    def request(self, method: str, path: str, **content: Any) -> Steps:
        """The steps of one request; whoever runs them sends each yielded request."""
        if not self._headers:
            yield from self._log_in()
        response = yield self._made(method, path, **content)
        if response.status_code == 401 or "CSRF" in _said(response):
            yield from self._log_in()
            response = yield self._made(method, path, **content)
        return response

    def _made(self, method: str, path: str, **content: Any) -> httpx.Request:
        request: httpx.Request = http().Request(
            method, f"{self.url}{path}", headers=self._headers, **content
        )
        return request

    def _log_in(self) -> Generator[httpx.Request, httpx.Response, None]:
        self._headers = {}
        credentials = {
            "username": self._username,
            "password": self._password.reveal(),
            "provider": "db",
            "refresh": False,
        }
        response = yield self._made("POST", "/api/v1/security/login", json=credentials)
        if response.status_code != 200:
            raise ConfigurationError(
                f"Superset refuses to log in {self._username!r} (HTTP {response.status_code}); "
                "check the account and its password"
            )
        self._headers = {"Authorization": f"Bearer {response.json()['access_token']}"}
        response = yield self._made("GET", "/api/v1/security/csrf_token/")
        if response.status_code == 200:
            self._headers |= {"X-CSRFToken": response.json()["result"], "Referer": self.url}


def _said(response: httpx.Response) -> str:
    return response.text if response.status_code == 400 else ""


def send(client: httpx.Client, steps: Steps) -> httpx.Response:
    """Run *steps* with a client.

    Raises:
        ServerUnavailableError: Superset does not answer.
    """
    try:
        request = next(steps)
        while True:
            request = steps.send(sent(client, request))
    except StopIteration as end:
        return _answer(end)


async def asend(client: httpx.AsyncClient, steps: Steps) -> httpx.Response:
    """As :func:`send`, with an asynchronous client."""
    try:
        request = next(steps)
        while True:
            request = steps.send(await asent(client, request))
    except StopIteration as end:
        return _answer(end)


def sent(client: httpx.Client, request: httpx.Request) -> httpx.Response:
    """Send *request* with the client's cookies.

    Superset's web server closes idle connections after two seconds (gunicorn, *keepalive*), and
    a request may cross with that: it is sent once more, for none of ours does anything twice.

    Raises:
        ServerUnavailableError: Superset does not answer.
    """
    _prepare(client, request)
    try:
        try:
            return client.send(request)
        except (http().RemoteProtocolError, http().ReadError, http().WriteError):
            return client.send(request)
    except http().HTTPError as error:
        raise unreachable(error) from None


async def asent(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """As :func:`sent`, with an asynchronous client."""
    _prepare(client, request)
    try:
        try:
            return await client.send(request)
        except (http().RemoteProtocolError, http().ReadError, http().WriteError):
            return await client.send(request)
    except http().HTTPError as error:
        raise unreachable(error) from None


def _prepare(client: httpx.Client | httpx.AsyncClient, request: httpx.Request) -> None:
    client.cookies.set_cookie_header(request)
    # A request that the client has not built itself would wait for ever.
    request.extensions.setdefault("timeout", client.timeout.as_dict())


def _answer(end: StopIteration) -> httpx.Response:
    answer: httpx.Response = end.value
    return answer


def unreachable(error: Exception) -> TenantryError:
    """The error for a Superset that does not answer; the client's words may hold its address."""
    return ServerUnavailableError(
        f"Superset does not answer ({type(error).__name__}); check its address", server="superset"
    )
