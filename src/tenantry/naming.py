"""Tenant ids, and the database, schema and role names made from them.

Ids are compared byte for byte and never normalised: two spellings are two tenants or an
error. Physical names are made once, at creation, and recorded in the directory.
"""

from __future__ import annotations

import re

from .errors import InvalidTenantIdError

__all__ = ["RESERVED", "check_tenant_id", "is_identifier", "is_tenant_id", "physical_name", "shown"]

_TENANT_ID = re.compile(r"[a-z][a-z0-9_-]{0,47}")
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}(?:\.[a-z0-9][a-z0-9_-]{0,62})*")
_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,7}|")

#: Names that servers, tools and tenantry itself give a meaning of their own.
RESERVED = frozenset(
    {
        "default",
        "information_schema",
        "main",
        "master",
        "model",
        "msdb",
        "mysql",
        "none",
        "null",
        "performance_schema",
        "postgres",
        "public",
        "shared",
        "sys",
        "temp",
        "tempdb",
        "template0",
        "template1",
        "tenantry",
    }
)


def shown(value: object, limit: int = 60) -> str:
    """*value* for a message or log line: one line of ASCII, at most *limit* characters."""
    try:
        text = ascii(value)
    except Exception:  # a hostile object's own repr, or an integer of more than 4,300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def is_tenant_id(value: object) -> bool:
    """Whether *value* is a tenant id; never raises, whatever it is given.

    The test is ``fullmatch``: ``$`` would let a trailing newline through (Python manual, *re*).
    """
    return (
        type(value) is str
        and _TENANT_ID.fullmatch(value) is not None
        and value not in RESERVED
        and not value.startswith("pg_")
    )


def is_identifier(value: object) -> bool:
    """Whether a request can name a tenant by *value*; never raises, whatever it is given.

    An identifier is a tenant id, or what could be a host name: lower-case labels of at most 63
    characters with dots between (RFC 1035, 2.3.4), 253 in all. UUIDs and slugs fit.
    """
    return is_tenant_id(value) or (
        type(value) is str
        and len(value) <= 253
        and _IDENTIFIER.fullmatch(value) is not None
        and value not in RESERVED
        and not value.startswith("pg_")
    )


def check_tenant_id(value: object) -> str:
    """Return *value* unchanged if it is a tenant id.

    Raises:
        InvalidTenantIdError: It is not; the message shows it escaped and shortened.
    """
    if not is_tenant_id(value):
        raise InvalidTenantIdError(
            f"{shown(value)} is not a tenant id; ids match [a-z][a-z0-9_-]{{0,47}} "
            "and are not reserved words"
        )
    assert isinstance(value, str)
    return value


def physical_name(tenant_id: str, *, prefix: str = "", generation: int = 1) -> str:
    """The database, schema or role name for a tenant, at most 63 bytes of ASCII.

    PostgreSQL cuts identifiers at 63 bytes with a notice only (manual, 4.1.1) and MySQL
    refuses more than 64 characters, so length is bounded here: 8 of prefix, 48 of id and
    7 of generation. ``$`` cannot stand in an id, so no two (id, generation) share a name.

    Raises:
        InvalidTenantIdError: *tenant_id* is none.
        ValueError: *prefix* is longer than 8 characters or not plain, or *generation* is
            outside 1 to 999,999.
    """
    check_tenant_id(tenant_id)
    if _PREFIX.fullmatch(prefix) is None:
        raise ValueError(f"a name prefix matches [a-z][a-z0-9_]{{0,7}}; got {shown(prefix)}")
    if not 1 <= generation <= 999_999:
        raise ValueError(f"a generation is between 1 and 999,999; got {generation}")
    return f"{prefix}{tenant_id}" + (f"${generation}" if generation > 1 else "")
