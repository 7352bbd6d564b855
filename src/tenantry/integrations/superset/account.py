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
            try:
                response = _with_cookies(client, request)
            except http().HTTPError as error:
                raise unreachable(error) from None
            request = steps.send(response)
    except StopIteration as end:
        return _answer(end)


async def asend(client: httpx.AsyncClient, steps: Steps) -> httpx.Response:
    """As :func:`send`, with an asynchronous client."""
    try:
        request = next(steps)
        while True:
            client.cookies.set_cookie_header(request)
            try:
                response = await client.send(request)
            except http().HTTPError as error:
                raise unreachable(error) from None
            request = steps.send(response)
    except StopIteration as end:
        return _answer(end)


def _with_cookies(client: httpx.Client, request: httpx.Request) -> httpx.Response:
    client.cookies.set_cookie_header(request)
    return client.send(request)


def _answer(end: StopIteration) -> httpx.Response:
    answer: httpx.Response = end.value
    return answer


def unreachable(error: Exception) -> TenantryError:
    """The error for a Superset that does not answer; the client's words may hold its address."""
    return ServerUnavailableError(
        f"Superset does not answer ({type(error).__name__}); check its address", server="superset"
    )
