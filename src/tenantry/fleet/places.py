"""Makes, removes and looks at places: a database, a schema, a file. Every step may be repeated."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import tempfile
from functools import lru_cache, partial
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import text

from ..backends import SQLite, backend_of
from ..backends.places import places_of
from ..errors import UnsupportedError
from ..servers import Server
from ..tenant import Isolation
from .access import Access, Place
from .statements import exec_all

__all__ = ["drop_place", "make_place", "names_on", "place_exists"]

#: What SQLite keeps beside a database file.
COMPANIONS = ("-wal", "-shm", "-journal")


def place_exists(access: Access, place: Place) -> bool:
    """Whether the database, schema or file is there.

    Raises:
        ServerUnavailableError: The server does not answer.
    """
    if isinstance(place.backend, SQLite):
        return place.file().exists()
    places = places_of(place.backend)
    if place.database is not None and not _has_database(access, place.server, place.database):
        return False
    if place.schema is None:
        return True
    with access.connect(place.server, place.database, admin=True) as connection:
        query, parameters = places.schema_exists(place.schema)
        return connection.execute(text(query), dict(parameters)).first() is not None


def make_place(access: Access, place: Place, *, template: str | None = None) -> bool:
    """Make what is missing of *place*, empty; says whether anything was made.

    Raises:
        ServerUnavailableError: The server does not answer.
    """
    if isinstance(place.backend, SQLite):
        return _make_file(place)
    if place_exists(access, place):
        return False
    places = places_of(place.backend)
    owner = places.owner(place.server)
    made = False
    if place.database is not None and not _has_database(access, place.server, place.database):
        place.backend.check_database_name(place.server, place.database)
        with access.connect(place.server, admin=True, autocommit=True) as connection:
            exec_all(
                connection,
                *places.create_database(place.database, owner=owner, template=template),
            )
        made = True
    if place.schema is not None:
        place.backend.check_database_name(place.server, place.schema)
        with access.connect(place.server, place.database, admin=True) as connection:
            exec_all(connection, *places.create_schema(place.schema, owner=owner))
            connection.commit()
        made = True
    return made


def drop_place(access: Access, place: Place) -> bool:
    """Remove *place* and all in it; says whether it was there.

    The database around a schema stays. Places with ``rows`` isolation are refused: others
    live there too.

    Raises:
        ServerUnavailableError: The server does not answer.
    """
    if any(each.placement.isolation is Isolation.ROWS for each in place.tenants):
        raise UnsupportedError(
            f"tenant {place.name!r} lives in rows of shared tables; its place is not dropped",
            tenant_id=place.name,
        )
    if isinstance(place.backend, SQLite):
        return remove_file(place.file())
    if not place_exists(access, place):
        return False
    places = places_of(place.backend)
    if place.schema is not None:
        with access.connect(place.server, place.database, admin=True) as connection:
            exec_all(connection, *places.drop_schema(place.schema))
            connection.commit()
        return True
    if place.database is None or place.database == place.server.url.database:
        raise UnsupportedError(
            f"tenant {place.name!r} lives in the own database of server "
            f"{place.server.name!r}; that is not dropped",
            tenant_id=place.name,
        )
    with access.connect(place.server, admin=True, autocommit=True) as connection:
        exec_all(connection, *places.drop_database(place.database))
    return True


def names_on(access: Access, server: Server) -> list[str]:
    """The databases of *server*, or for SQLite the database files below its root."""
    if server.kind == "sqlite":
        root = server.root
        if not root.is_dir():
            return []
        return sorted(
            str(file.relative_to(root))
            for file in root.rglob("*")
            if file.is_file() and _is_database_file(file)
        )
    places = places_of(backend_of(server))
    with access.connect(server, admin=True) as connection:
        return [str(row[0]) for row in connection.execute(text(places.list_databases))]


def new_file(final: Path, content: bytes) -> None:
    """Write *content* to *final*, which appears at once and whole and is on the disk at the end.

    The name comes before the wait for the disk, which is then one wait for both. A crash of the
    machine meanwhile can leave it cut short; SQLite then calls it malformed at the first look
    (``lockBtree`` compares its length with what its header says).

    Raises:
        FileExistsError: There is a file of that name; it is as it was.
    """
    handle, draft = _draft_beside(final)
    with os.fdopen(handle, "wb") as file:
        try:
            file.write(content)
            file.flush()
            os.link(draft, final)
        finally:
            draft.unlink()
        os.fsync(file.fileno())
    sync_folder(final.parent)


def replace_file(final: Path, content: bytes) -> None:
    """Put *content* in the place of *final*, at once and for good."""
    handle, draft = _draft_beside(final)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(final)
        sync_folder(final.parent)
    finally:
        draft.unlink(missing_ok=True)


def _draft_beside(final: Path) -> tuple[int, Path]:
    """A new file in the folder of *final*, which is made if need be: descriptor and name."""
    draft = final.with_name(f".{final.name[:80]}.{secrets.token_hex(6)}.new")
    make = partial(os.open, draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        return make(), draft
    except FileNotFoundError:
        final.parent.mkdir(parents=True, exist_ok=True)
        return make(), draft


def sync_folder(folder: Path) -> None:
    """Have the names in *folder* written to the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_file(file: Path) -> bool:
    """Remove an SQLite database and what is beside it; says whether it was there."""
    # The database goes first: what is beside it would be taken for another's otherwise.
    found = file.exists() or file.is_symlink()
    for each in (file, *(Path(f"{file}{end}") for end in COMPANIONS)):
        each.unlink(missing_ok=True)
    return found


def _make_file(place: Place) -> bool:
    file = place.file()
    if file.exists():
        return False
    with contextlib.suppress(FileExistsError):
        new_file(file, _empty_database())
        return True
    return False


@lru_cache(maxsize=1)
def _empty_database() -> bytes:
    """What SQLite writes for a database without tables, its header above all."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "empty.db"
        connection = sqlite3.connect(file)
        connection.execute("VACUUM")
        connection.close()
        return file.read_bytes()


def _is_database_file(file: Path) -> bool:
    """Asked of SQLite: who opens and closes a database's file by himself takes all locks off it
    that this process has (sqlite.org/howtocorrupt.html, 2.2).
    """
    if file.name.startswith(".") or file.name.endswith(COMPANIONS):
        return False
    try:
        uri = f"file:{quote(str(file))}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=0.0)) as connection:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        return file.stat().st_size > 0
    except sqlite3.DatabaseError as error:  # one that is in use or damaged is one
        return not any(why in str(error) for why in ("not a database", "unable to open"))
    except OSError:
        return False


def _has_database(access: Access, server: Server, database: str) -> bool:
    places = places_of(backend_of(server))
    query, parameters = places.database_exists(database)
    with access.connect(server, admin=True) as connection:
        return connection.execute(text(query), dict(parameters)).first() is not None
