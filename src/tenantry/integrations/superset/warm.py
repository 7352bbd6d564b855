"""Fill each tenant's caches before its people come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from tenantry.integrations.superset.account import Account, http
from tenantry.integrations.superset.guest import Guest
from tenantry.integrations.superset.probe import bound, staff_reader
from tenantry.integrations.superset.routes import read_dashboard, routes
from tenantry.servers import Secret


def warm(
    url: str,
    *,
    tenants: Sequence[str],
    token: Callable[[str], str],
    username: str,
    password: str | Secret,
    embedded: str,
) -> dict[str, int]:
    """Ask for every chart and filter of a dashboard as a guest of each tenant.

    The arguments are those of :func:`check`. Superset's own warm-up runs as a staff account,
    whose entries no guest reads. Returns how many queries each tenant has cached now; a
    query that failed is not counted.

    Raises:
        ConfigurationError: The staff account is refused, or no chart has a saved query.
        ServerUnavailableError: Superset does not answer.
    """
    with ExitStack() as stack:
        client = stack.enter_context(http().Client(timeout=120))
        dashboard = read_dashboard(staff_reader(client, Account(url, username, password)), embedded)
        wanted = [route for route in routes(dashboard) if route.warms]
        warmed = {}
        for tenant in tenants:
            own = stack.enter_context(http().Client(timeout=120))
            guest = Guest(url, tenant, bound(token, tenant), own)
            answers = [route.ask(guest, False) for route in wanted]
            warmed[tenant] = sum(answer.status_code == 200 for answer in answers)
        return warmed
