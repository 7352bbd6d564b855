"""A guest of a running Superset, as the embedded page is one: a token in a header, cookies."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tenantry.integrations.superset.account import http, sent

if TYPE_CHECKING:
    import httpx

_PATIENCE_SECONDS = 60.0


class Guest:
    """Sends requests with the guest token of one tenant; may be used by several threads.

    *token* is asked for at each request. *client* carries the cookies; guests that share one
    are one browser in which somebody changed the tenant.
    """

    def __init__(
        self, url: str, tenant_id: str, token: Callable[[], str], client: httpx.Client
    ) -> None:
        self.tenant_id = tenant_id
        self._url = url.rstrip("/")
        self._token = token
        self._client = client
        self._csrf: str | None = None

    def __call__(self, method: str, path: str, **content: Any) -> httpx.Response:
        """One request; the answer of an asynchronous query is waited for.

        Raises:
            ServerUnavailableError: Superset does not answer.
        """
        if self._csrf is None:
            # Also sets the cookies, without which asynchronous queries are refused.
            answer = self._send("GET", "/api/v1/security/csrf_token/")
            self._csrf = answer.json()["result"] if answer.status_code == 200 else ""
        answer = self._send(method, path, **content)
        return self._result(answer) if answer.status_code == 202 else answer

    def form(self, path: str, fields: dict[str, str]) -> httpx.Response:
        """A form with the token among its fields, as a download in a new window sends it."""
        return self._send("POST", path, header=False, data={**fields, "guest_token": self._token()})

    def _send(self, method: str, path: str, header: bool = True, **content: Any) -> httpx.Response:
        headers = {"X-GuestToken": self._token()} if header else {}
        if self._csrf:
            headers |= {"X-CSRFToken": self._csrf, "Referer": self._url}
        url = f"{self._url}{path}"
        return sent(self._client, http().Request(method, url, headers=headers, **content))

    def _result(self, accepted: httpx.Response) -> httpx.Response:
        """What a worker found for a query that was only accepted so far."""
        job = accepted.json().get("job_id")
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            events = self._send("GET", "/api/v1/async_event/")
            if events.status_code != 200:
                return events
            for event in events.json()["result"]:
                if event.get("job_id") != job:
                    continue
                if event["status"] == "done":
                    return self._send("GET", event["result_url"])
                if event["status"] == "error":
                    request = accepted.request
                    failed: httpx.Response = http().Response(500, request=request, json=event)
                    return failed
            time.sleep(0.1)
        return accepted
