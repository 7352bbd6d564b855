"""Superset's five caches, with every key carrying the tenant that it belongs to.

Redis asks for the prefix of a key at each operation, so there a callable is enough (cachelib,
``BaseRedisCache._get_prefix``). Every other store is wrapped.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tenantry.errors import ConfigurationError, MissingDependencyError, UnsupportedError
from tenantry.integrations.superset.visitor import Visitors
from tenantry.naming import check_tenant_id

CACHES: Mapping[str, Mapping[str, Any]] = {
    "CACHE_CONFIG": {"CACHE_DEFAULT_TIMEOUT": 86_400},
    "DATA_CACHE_CONFIG": {"CACHE_DEFAULT_TIMEOUT": 86_400},
    "FILTER_STATE_CACHE_CONFIG": {
        "CACHE_DEFAULT_TIMEOUT": 90 * 86_400,
        "REFRESH_TIMEOUT_ON_RETRIEVAL": True,
    },
    "EXPLORE_FORM_DATA_CACHE_CONFIG": {
        "CACHE_DEFAULT_TIMEOUT": 7 * 86_400,
        "REFRESH_TIMEOUT_ON_RETRIEVAL": True,
    },
    "THUMBNAIL_CACHE_CONFIG": {"CACHE_DEFAULT_TIMEOUT": 7 * 86_400},
}
"""The settings of the five caches, with Superset's own times in seconds."""

_NAMES = {
    "CACHE_CONFIG": "meta_",
    "DATA_CACHE_CONFIG": "data_",
    "FILTER_STATE_CACHE_CONFIG": "filter_",
    "EXPLORE_FORM_DATA_CACHE_CONFIG": "explore_",
    "THUMBNAIL_CACHE_CONFIG": "thumbnail_",
}
_ALWAYS_STORED = ("FILTER_STATE_CACHE_CONFIG", "EXPLORE_FORM_DATA_CACHE_CONFIG")
_METASTORE = "superset.extensions.metastore_cache.SupersetMetastoreCache"
_WRAPPER = f"{__name__}.wrapped_store"
_REDIS = re.compile(r"(flask_caching\.backends\.(\w+\.)?)?Redis(Sentinel|Cluster)?Cache")
_FILES = re.compile(r"(flask_caching\.backends\.(\w+\.)?)?(FileSystemCache|filesystem)")
_GUEST_KEY = re.compile(rb"t:([a-z0-9_-]+):")
_NULL = ("null", "NullCache", "flask_caching.backends.NullCache")


@dataclass(frozen=True)
class TenantPrefix:
    """A ``CACHE_KEY_PREFIX`` for each operation anew: the cache's own, then the tenant's."""

    name: str | Callable[[], str]
    visitors: Visitors

    def __call__(self) -> str:
        name = self.name if isinstance(self.name, str) else self.name()
        return name + self.visitors.scope()


def tenant_caches(
    settings: Mapping[str, Any], visitors: Visitors, redis_url: str | None = None
) -> dict[str, dict[str, Any]]:
    """The settings of all five caches with the tenant in every key.

    What *settings* has is kept. A cache it does not have goes to *redis_url*, or where that is
    ``None`` stays what Superset makes it: nothing, or the metadata database.
    """
    return {
        name: _tenant_cache(name, dict(settings.get(name) or {}), visitors, redis_url)
        for name in CACHES
    }


def _tenant_cache(
    name: str, config: dict[str, Any], visitors: Visitors, redis_url: str | None
) -> dict[str, Any]:
    if not config:
        config = dict(CACHES[name])
        if redis_url is not None:
            config |= {"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": redis_url}
    kind = config.get("CACHE_TYPE")
    if kind in ("SupersetMetastoreCache", None) and name in _ALWAYS_STORED:
        kind = _METASTORE
    if kind is None or kind in _NULL:
        return {**config, "CACHE_TYPE": "NullCache", "CACHE_NO_NULL_WARNING": True}
    prefix = config.get("CACHE_KEY_PREFIX") or _NAMES[name]
    if _REDIS.fullmatch(kind):
        return {**config, "CACHE_KEY_PREFIX": TenantPrefix(prefix, visitors)}
    if kind == _WRAPPER:
        return config
    return {
        **config,
        "CACHE_TYPE": _WRAPPER,
        "TENANTRY_STORE": kind,
        "TENANTRY_VISITORS": visitors,
        "CACHE_KEY_PREFIX": prefix,
    }


def keeps_tenants_apart(config: Mapping[str, Any]) -> bool:
    """Whether a cache with this configuration stores nothing, or each tenant's own."""
    kind = config.get("CACHE_TYPE")
    if kind in _NULL or kind == _WRAPPER:
        return True
    return isinstance(config.get("CACHE_KEY_PREFIX"), TenantPrefix)


class WrappedStore:
    """A cache whose keys carry the tenant, over a store that cannot ask for a prefix itself.

    Has the methods that Flask-Caching calls, and no others: what is not here cannot reach the
    store without the tenant. :meth:`clear` empties the store for everybody.
    """

    def __init__(self, store: Any, scope: Callable[[], str]) -> None:
        self._store = store
        self._scope = scope

    @property
    def default_timeout(self) -> int:
        """The store's, in seconds."""
        timeout: int = self._store.default_timeout
        return timeout

    @property
    def ignore_errors(self) -> bool:
        """The store's."""
        return bool(getattr(self._store, "ignore_errors", False))

    def get(self, key: str) -> Any:
        """The tenant's value, or ``None``."""
        return self._store.get(self._scope() + key)

    def has(self, key: str) -> bool:
        """Whether the tenant has a value."""
        return bool(self._store.has(self._scope() + key))

    def set(self, key: str, value: Any, timeout: int | None = None) -> Any:
        """Store the tenant's value for *timeout* seconds; ``None``: the default."""
        return self._store.set(self._scope() + key, value, timeout)

    def add(self, key: str, value: Any, timeout: int | None = None) -> Any:
        """As :meth:`set`, unless the tenant has a value."""
        return self._store.add(self._scope() + key, value, timeout)

    def delete(self, key: str) -> Any:
        """Forget the tenant's value."""
        return self._store.delete(self._scope() + key)

    def delete_many(self, *keys: str) -> list[str]:
        """Forget several of the tenant's values; those that were there."""
        return [key for key in keys if self.delete(key)]

    def get_many(self, *keys: str) -> list[Any]:
        """The tenant's values in the order of *keys*."""
        return [self.get(key) for key in keys]

    def get_dict(self, *keys: str) -> dict[str, Any]:
        """The tenant's values by key."""
        return dict(zip(keys, self.get_many(*keys), strict=True))

    def set_many(self, mapping: Mapping[str, Any], timeout: int | None = None) -> list[Any]:
        """Store several of the tenant's values; the keys that were stored."""
        return [key for key, value in mapping.items() if self.set(key, value, timeout)]

    def clear(self) -> Any:
        """Forget everything of everybody."""
        return self._store.clear()


def wrapped_store(app: Any, config: Any, args: Any, kwargs: dict[str, Any]) -> WrappedStore:
    """Make the store that the user asked for, and wrap it; Flask-Caching calls this."""
    kind: str = config["TENANTRY_STORE"]
    if kind == _METASTORE and "CODEC" not in config:
        # Superset's default codec for these two caches; pickle would be its fallback.
        types = importlib.import_module("superset.key_value.types")
        config["CODEC"] = types.JsonKeyValueCodec()
    if _FILES.fullmatch(kind):
        kwargs["hash_method"] = partial(FileName, kwargs.get("hash_method", hashlib.md5))
    path = kind if "." in kind else f"flask_caching.backends.{kind}"
    module, _, attribute = path.rpartition(".")
    make = getattr(importlib.import_module(module), attribute)
    store = getattr(make, "factory", make)(app, config, args, kwargs)
    return WrappedStore(store, config["TENANTRY_VISITORS"].scope)


class FileName:
    """The name of the file of one key, which says whose it is: ``t.uk.5d41...`` for a guest's.

    What ``FileSystemCache`` takes for a hash. Everybody else's files have the hash alone.
    """

    def __init__(self, hash_method: Callable[[bytes], Any], key: bytes) -> None:
        scoped = _GUEST_KEY.match(key)
        self._owner = f"t.{scoped[1].decode()}." if scoped else ""
        self._digest = hash_method(key).hexdigest()

    def hexdigest(self) -> str:
        """The name."""
        return f"{self._owner}{self._digest}"


def purge(where: Any, tenant_id: str) -> int:
    """Delete every entry of a tenant's guests from a cache of Superset's.

    *where* is a Redis as a client or a URL, the directory of a ``FileSystemCache`` as a
    :class:`~pathlib.Path`, or the setting of one cache, such as ``DATA_CACHE_CONFIG``. All
    generations of the tenant go, earlier tenants of the same id among them, and nobody else's
    entries. Returns how many there were. What the tenant's guests read meanwhile is stored anew.

    Raises:
        InvalidTenantIdError: *tenant_id* is none.
        MissingDependencyError: A Redis was named and the package ``redis`` is not installed.
        UnsupportedError: The cache cannot list what it holds (memcached, uWSGI, the metadata
            database), or holds it in each process's memory. A new generation of the tenant in
            the directory makes all of that unreachable at once, in every cache.
        ConfigurationError: There is no such directory.
    """
    check_tenant_id(tenant_id)
    if isinstance(where, Mapping):
        where = _store_of(where)
    if where is None:
        return 0
    if isinstance(where, Path):
        return _purge_files(where, tenant_id)
    if not isinstance(where, str):
        return _purge_redis(where, tenant_id)
    if not where.startswith(("redis://", "rediss://", "unix://")):
        raise UnsupportedError(
            "only a Redis has an address that purge can be given; for caches in files it is "
            "a pathlib.Path"
        )
    try:
        client = importlib.import_module("redis").Redis.from_url(where)
    except ModuleNotFoundError:
        raise MissingDependencyError("purge needs redis; run `pip install redis`") from None
    try:
        return _purge_redis(client, tenant_id)
    finally:
        client.close()


def _store_of(config: Mapping[str, Any]) -> str | Path | None:
    """Where a cache with this setting is; ``None`` for one that stores nothing."""
    kind = config.get("CACHE_TYPE")
    if kind == _WRAPPER:
        kind = config["TENANTRY_STORE"]
    if kind in _NULL:
        return None
    if isinstance(kind, str) and _FILES.fullmatch(kind):
        return Path(config["CACHE_DIR"])
    if isinstance(kind, str) and _REDIS.fullmatch(kind) and config.get("CACHE_REDIS_URL"):
        return str(config["CACHE_REDIS_URL"])
    if isinstance(kind, str) and _REDIS.fullmatch(kind):
        raise UnsupportedError(f"give purge a client or a URL for a {kind} without CACHE_REDIS_URL")
    raise UnsupportedError(
        f"a cache of the kind {kind or 'SupersetMetastoreCache'!r} cannot list one tenant's "
        "entries; give the tenant a new generation in the directory, which leaves them unread"
    )


def _purge_files(directory: Path, tenant_id: str) -> int:
    if not directory.is_dir():
        raise ConfigurationError(f"there is no directory {str(directory)!r}")
    purged = 0
    for file in directory.glob(f"t.{tenant_id}.*"):
        with contextlib.suppress(FileNotFoundError):  # Superset was faster
            file.unlink()
            purged += 1
    return purged


def _purge_redis(client: Any, tenant_id: str) -> int:
    # The pattern finds candidates, the expression decides: a key may have `t:uk:` further on.
    ours = re.compile(rf"[^:]*t:{tenant_id}:[^:]+\.\d+:".encode())
    purged = 0
    for found in client.scan_iter(match=f"*t:{tenant_id}:*", count=1000):
        if ours.match(found if isinstance(found, bytes) else found.encode()):
            purged += client.unlink(found)
    return purged
