"""``configure``: what Superset needs set, around what the user has set already."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from tenantry.directory import CachedDirectory, Directory, TableDirectory, from_env
from tenantry.errors import ConfigurationError
from tenantry.integrations.superset.caches import tenant_caches
from tenantry.integrations.superset.mutator import Mutator, engine_context
from tenantry.integrations.superset.security import install, mint_hook, secured
from tenantry.integrations.superset.startup import check_startup
from tenantry.integrations.superset.templates import TenantFunction, count_in_keys
from tenantry.integrations.superset.visitor import CLAIMS, Visitors
from tenantry.servers import Server

ASYNC_QUERIES = "tenantry.integrations.superset.async_queries.GuestAsyncQueryManager"


def configure(
    settings: MutableMapping[str, Any],
    *,
    directory: Directory | None = None,
    servers: Mapping[str, Server] | None = None,
    reference: str | None = None,
    redis_url: str | None = None,
    claims: tuple[str, ...] = CLAIMS,
    environment: Mapping[str, str] | None = None,
) -> Visitors:
    """Make every connection and every cache of Superset follow the tenant of the guest token.

    Call it as the last line of ``superset_config.py`` with ``globals()`` as *settings*: what is
    set above stays and is composed with ours. Without *directory* and *servers* the tenants
    come from variables such as ``DB_UK_HOST`` and ``DB_UK_PASS`` in *environment* (``None``:
    the process's own). *reference* is the tenant that staff accounts read; without one they
    read none, and cannot make datasets. *redis_url* is for the caches that are not set above.
    *claims* are the places of a guest token that may name the tenant, first one first:
    ``("tenant",)`` alone ignores the user's name.

    Raises:
        ConfigurationError: Only one of *directory* and *servers*, or a place that is none.
        MissingVariableError: Neither, and a tenant's variables are incomplete.
    """
    if not claims or not set(claims) <= set(CLAIMS):
        raise ConfigurationError(f"claims {claims!r} must be of {CLAIMS!r}, and at least one")
    if (directory is None) != (servers is None):
        raise ConfigurationError("give configure() both directory and servers, or neither")
    if directory is None or servers is None:
        directory, servers = _from_environment(os.environ if environment is None else environment)
    visitors = Visitors(_quick(directory), dict(servers), reference, claims)

    settings.update(tenant_caches(settings, visitors, redis_url))
    settings["DB_CONNECTION_MUTATOR"] = Mutator(visitors, settings.get("DB_CONNECTION_MUTATOR"))
    settings["ENGINE_CONTEXT_MANAGER"] = engine_context(
        visitors, settings.get("ENGINE_CONTEXT_MANAGER")
    )
    settings["CUSTOM_SECURITY_MANAGER"] = secured(
        settings.get("CUSTOM_SECURITY_MANAGER") or _superset_manager(), visitors
    )
    settings["GUEST_TOKEN_VALIDATOR_HOOK"] = mint_hook(
        visitors, settings.get("GUEST_TOKEN_VALIDATOR_HOOK")
    )
    settings["FLASK_APP_MUTATOR"] = _app_mutator(visitors, settings.get("FLASK_APP_MUTATOR"))
    settings["JINJA_CONTEXT_ADDONS"] = {
        "tenant": TenantFunction(visitors),
        **settings.get("JINJA_CONTEXT_ADDONS", {}),
    }
    settings["FEATURE_FLAGS"] = {"EMBEDDED_SUPERSET": True, **settings.get("FEATURE_FLAGS", {})}
    if settings["FEATURE_FLAGS"].get("GLOBAL_ASYNC_QUERIES"):
        settings.setdefault("GLOBAL_ASYNC_QUERY_MANAGER_CLASS", ASYNC_QUERIES)
    return visitors


def _app_mutator(visitors: Visitors, before: Callable[[Any], Any] | None) -> Callable[[Any], None]:
    def mutate(app: Any) -> None:
        if before is not None:
            before(app)
        check_startup(app.config, visitors)
        count_in_keys(app.config["JINJA_CONTEXT_ADDONS"])
        install(app)

    return mutate


def _superset_manager() -> type[Any]:
    # By name, since Superset is not installed where this is type-checked and unit-tested.
    manager: type[Any] = importlib.import_module("superset.security").SupersetSecurityManager
    return manager


def _from_environment(
    environment: Mapping[str, str],
) -> tuple[Directory, Mapping[str, Server]]:
    loaded = from_env("DB_", environment)
    return loaded.directory, loaded.servers


def _quick(directory: Directory) -> Directory:
    """*directory*, behind a cache if each look-up would ask a database."""
    return CachedDirectory(directory) if isinstance(directory, TableDirectory) else directory
