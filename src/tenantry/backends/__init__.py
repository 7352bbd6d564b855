"""What each database server can do: returns statements, runs none."""

from ..errors import UnsupportedError
from ..servers import Server
from .base import Backend, Pointing
from .citus import Citus
from .mssql import MSSQL
from .mysql import MySQL
from .oracle import Oracle
from .postgresql import PostgreSQL
from .sqlite import SQLite

__all__ = [
    "MSSQL",
    "Backend",
    "Citus",
    "MySQL",
    "Oracle",
    "Pointing",
    "PostgreSQL",
    "SQLite",
    "backend_of",
]

_BACKENDS: dict[str, Backend] = {
    each.kind: each for each in (PostgreSQL(), MySQL(), SQLite(), Oracle(), MSSQL())
}
_CITUS = Citus()


def backend_of(server: Server) -> Backend:
    """The backend for a server's kind.

    Raises:
        UnsupportedError: tenantry does not know this kind of server.
    """
    if server.citus:
        return _CITUS
    try:
        return _BACKENDS[server.kind]
    except KeyError:
        raise UnsupportedError(
            f"server {server.name!r} is of kind {server.kind!r}; "
            f"known are {', '.join(sorted(_BACKENDS))}"
        ) from None
