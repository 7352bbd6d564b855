"""``check``: does anything leak in a running Superset? Route by route, with tenants' own tokens.

Needs no knowledge of the data. Each tenant's true rows are asked for past the caches first;
then every route is asked again, warm, by each tenant after the others, in both orders, from one
browser and by many threads at once, and must show the same.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tenantry.errors import ConfigurationError
from tenantry.integrations.superset.account import Account, http, send
from tenantry.integrations.superset.guest import Guest
from tenantry.integrations.superset.routes import Dashboard, Route, Rows, read_dashboard, routes
from tenantry.servers import Secret

if TYPE_CHECKING:
    import httpx

REFUSED = (401, 403, 404)


@dataclass(frozen=True)
class Finding:
    """What one request showed: ``ok``, ``leak``, ``error``, ``same`` or ``refused``.

    ``same`` means that the tenants have the same rows there, so that nothing can be told;
    ``refused`` that no guest gets anything there.
    """

    route: str
    tenant_id: str
    status: str
    note: str = ""


@dataclass
class Report:
    """Everything that was found. No row values are in it."""

    findings: list[Finding] = field(default_factory=list)

    def counts(self) -> Counter[str]:
        """How many findings there are of each status."""
        return Counter(each.status for each in self.findings)

    @property
    def clean(self) -> bool:
        """Whether something was checked and nothing leaked, failed or could not be told."""
        counts = self.counts()
        return counts["ok"] > 0 and not counts["leak"] + counts["error"] + counts["same"]

    def by_route(self) -> dict[str, Counter[str]]:
        """The counts of each route, in the order they were asked."""
        found: dict[str, Counter[str]] = {}
        for each in self.findings:
            found.setdefault(each.route, Counter())[each.status] += 1
        return found

    def add(self, route: str, tenant_id: str, status: str, note: str = "") -> None:
        """Record one finding."""
        self.findings.append(Finding(route, tenant_id, status, note))


def check(
    url: str,
    *,
    tenants: Sequence[str],
    token: Callable[[str], str],
    username: str,
    password: str | Secret,
    embedded: str,
    threads: int = 8,
    rounds: int = 2,
    owns: Callable[[str, Rows], bool] | None = None,
) -> Report:
    """Ask a running Superset for every row that a guest can get, as each of *tenants*.

    *token* makes a guest token for a tenant id. *username* is a staff account that may read the
    dashboard, whose embedding id *embedded* is. *rounds* is how often each tenant asks in each
    order. *owns* knows the data: it says whether these rows are that tenant's.

    Raises:
        ConfigurationError: Fewer than two tenants, or a dashboard without saved queries.
        ServerUnavailableError: Superset does not answer.
    """
    if len(set(tenants)) < 2:
        raise ConfigurationError("a check needs two tenants with different rows")
    with ExitStack() as stack:

        def new_client() -> httpx.Client:
            client: httpx.Client = stack.enter_context(http().Client(timeout=120))
            return client

        staff = staff_reader(new_client(), Account(url, username, password))
        dashboard = read_dashboard(staff, embedded)
        guests = [Guest(url, each, bound(token, each), new_client()) for each in tenants]
        browser = new_client()
        together = [Guest(url, each, bound(token, each), browser) for each in tenants]
        return _Check(dashboard, guests, together, owns).run(rounds, threads)


def bound(token: Callable[[str], str], tenant_id: str) -> Callable[[], str]:
    """*token* for one tenant, asked for anew at each call."""
    return lambda: token(tenant_id)


def staff_reader(client: httpx.Client, account: Account) -> Callable[[str], Any]:
    """A function that reads a path of Superset's REST interface in an account's name."""

    def ask(path: str) -> Any:
        answer = send(client, account.request("GET", path))
        if answer.status_code != 200:
            raise ConfigurationError(
                f"the staff account is refused at {path} (HTTP {answer.status_code})"
            )
        return answer.json()

    return ask


class _Check:
    def __init__(
        self,
        dashboard: Dashboard,
        guests: list[Guest],
        together: list[Guest],
        owns: Callable[[str, Rows], bool] | None,
    ) -> None:
        self._guests = guests
        self._together = together
        self._owns = owns
        self._routes = list(routes(dashboard))
        self._truth: dict[tuple[str, str], Rows] = {}
        self._report = Report()

    def run(self, rounds: int, threads: int) -> Report:
        open_routes = [route for route in self._routes if self._learn(route)]
        for route in open_routes:
            for guests in (self._guests, self._guests[::-1], self._together) * rounds:
                for guest in guests:
                    self._judge(route, guest)
        mixed = [(route, guest) for route in open_routes for guest in self._guests] * rounds
        random.Random(5).shuffle(mixed)  # noqa: S311 - an order, not a secret
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda pair: self._judge(pair[0], pair[1], " by threads"), mixed))
        return self._report

    def _learn(self, route: Route) -> bool:
        """Ask for each tenant's true rows; whether the route is worth asking again."""
        answers = [route.ask(guest, True) for guest in self._guests]
        if all(answer.status_code in REFUSED for answer in answers):
            self._report.add(route.name, "", "refused", f"HTTP {answers[0].status_code}")
            return False
        for guest, answer in zip(self._guests, answers, strict=True):
            if route.truth is not None:
                if (rows := self._truth.get((route.truth, guest.tenant_id))) is not None:
                    self._truth[route.name, guest.tenant_id] = rows
            elif (rows := self._rows(route, guest, answer)) is not None:
                self._truth[route.name, guest.tenant_id] = rows
        known = [self._truth.get((route.name, each.tenant_id)) for each in self._guests]
        if any(rows is None for rows in known):
            return False
        if len(set(known)) < len(known):
            self._report.add(route.name, "", "same", "tenants cannot be told apart here")
            return self._owns is not None
        return True

    def _judge(self, route: Route, guest: Guest, how: str = "") -> None:
        answer = route.ask(guest, False)
        rows = self._rows(route, guest, answer)
        if rows is None:
            return
        for note in self._objections(route, guest, answer, rows):
            self._report.add(route.name, guest.tenant_id, "leak", note + how)
            return
        self._report.add(route.name, guest.tenant_id, "ok")

    def _objections(
        self, route: Route, guest: Guest, answer: httpx.Response, rows: Rows
    ) -> Iterator[str]:
        truth = self._truth[route.name, guest.tenant_id]
        if self._owns is not None and not (
            self._owns(guest.tenant_id, truth) and self._owns(guest.tenant_id, rows)
        ):
            yield "rows that are not the tenant's"
        if rows != truth:
            yield f"{len(rows)} rows, the tenant has {len(truth)} others"
        if route.get and "public" in (said := answer.headers.get("cache-control", "")):
            yield f"HTTP caches may keep and share it (Cache-Control: {said})"

    def _rows(self, route: Route, guest: Guest, answer: httpx.Response) -> Rows | None:
        if answer.status_code != 200:
            note = f"HTTP {answer.status_code}"
        else:
            try:
                return route.read(answer)
            except (ValueError, KeyError, TypeError) as error:
                note = f"unreadable answer ({type(error).__name__})"
        self._report.add(route.name, guest.tenant_id, "error", note)
        return None
