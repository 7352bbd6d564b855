"""What is looked at once, when Superset starts: refused if it could leak, warned of otherwise."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from tenantry.errors import ConfigurationError, DirectoryUnavailableError
from tenantry.integrations.superset.caches import CACHES, keeps_tenants_apart
from tenantry.integrations.superset.mutator import MARK, Mutator, routed, server_of
from tenantry.integrations.superset.visitor import Visitors
from tenantry.tenant import Isolation

_logger = logging.getLogger("tenantry.superset")

DEFAULT_SECRETS: Mapping[str, str] = {
    "GUEST_TOKEN_JWT_SECRET": "test-guest-secret-change-me",
    "GLOBAL_ASYNC_QUERIES_JWT_SECRET": "test-secret-change-me",
}
"""What Superset 6.1's ``config.py`` sets, for everybody to read."""

_SECRET_BYTES = 32  # RFC 7518, 3.2: a key for HS256 has at least 256 bits


def check_startup(config: Mapping[str, Any], visitors: Visitors) -> None:
    """Refuse a configuration that leaks, and warn of one that is weaker than it need be.

    Raises:
        ConfigurationError: Names every setting that must change.
    """
    found = [*_secrets(config), *_settings(config), *_tenants(visitors)]
    if found:
        raise ConfigurationError("Superset is not started: " + "; ".join(found))
    for warning in (*_weaknesses(config, visitors), *_routable()):
        _logger.warning("%s", warning)


def _secrets(config: Mapping[str, Any]) -> Iterator[str]:
    flags = {**config.get("DEFAULT_FEATURE_FLAGS", {}), **config.get("FEATURE_FLAGS", {})}
    needed = ["GUEST_TOKEN_JWT_SECRET"] if flags.get("EMBEDDED_SUPERSET") else []
    if flags.get("GLOBAL_ASYNC_QUERIES"):
        needed.append("GLOBAL_ASYNC_QUERIES_JWT_SECRET")
    for name in needed:
        secret = config.get(name) or ""
        if secret == DEFAULT_SECRETS[name]:
            yield f"{name} is Superset's public default, so anybody can make tokens; set your own"
        elif len(secret.encode()) < _SECRET_BYTES:
            yield f"{name} is shorter than {_SECRET_BYTES} bytes; use `openssl rand -base64 42`"


def _settings(config: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(config.get("DB_CONNECTION_MUTATOR"), Mutator):
        yield "DB_CONNECTION_MUTATOR was set after configure(); move configure() to the end"
    manager = config.get("CUSTOM_SECURITY_MANAGER")
    if not hasattr(manager, "tenantry_visitors"):
        yield "CUSTOM_SECURITY_MANAGER was set after configure(); move configure() to the end"
    for name in CACHES:
        if not keeps_tenants_apart(config.get(name) or {}):
            yield f"{name} does not keep tenants apart; set it above configure()"


def _tenants(visitors: Visitors) -> Iterator[str]:
    kinds: dict[str, str] = {}
    try:
        tenants = list(visitors.directory.tenants())
    except DirectoryUnavailableError as error:
        _logger.warning("tenants not checked at start: %s", error)
        return
    for tenant in tenants:
        if tenant.placement.isolation is Isolation.ROWS:
            yield f"tenant {tenant.id!r} shares tables; Superset needs a database or schema each"
        try:
            kinds.setdefault(server_of(tenant, visitors.servers).kind, tenant.id)
        except ConfigurationError as error:
            yield str(error)
    if len(kinds) > 1:
        shown = ", ".join(f"{kind} ({example})" for kind, example in sorted(kinds.items()))
        yield (
            f"tenants live on servers of different kinds: {shown}; one Superset database speaks "
            "one kind of SQL, so give each kind a Superset of its own"
        )
    if visitors.reference is not None and visitors.reference not in {each.id for each in tenants}:
        yield f"the reference tenant {visitors.reference!r} does not exist"


def _weaknesses(config: Mapping[str, Any], visitors: Visitors) -> Iterator[str]:
    if visitors.reference is None:
        yield "no reference tenant: staff accounts read nothing and cannot make datasets"
    for name in ("CACHE_CONFIG", "DATA_CACHE_CONFIG"):
        if config[name].get("CACHE_TYPE") == "NullCache":
            yield f"{name} is not set, so nothing is cached; set it, or give configure() redis_url"


def _routable() -> Iterator[str]:
    """Superset databases that would read something if the mutator were taken away."""
    try:
        superset = importlib.import_module("superset")
        core = importlib.import_module("superset.models.core")
    except ImportError:
        return
    try:
        databases = superset.db.session.query(core.Database).all()
        for database in databases:
            mark = database.get_extra().get("engine_params", {}).get(MARK)
            host = make_url(database.sqlalchemy_uri).host or ""
            if routed(mark) and not host.endswith(".invalid"):
                yield (
                    f"Superset database {database.database_name!r} is routed but its own address "
                    "can be reached; make it postgresql://nobody@tenant.invalid/none"
                )
    except SQLAlchemyError:
        superset.db.session.rollback()  # the tables are not there yet: `superset db upgrade`
