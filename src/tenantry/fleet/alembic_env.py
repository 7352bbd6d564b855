"""The one line for a project's ``env.py``: ``alembic_env.run(target_metadata)``.

With it plain Alembic works on tenants (``alembic -x tenant=acme upgrade head``), and
``tenantry migrate`` learns the project's settings without connecting anywhere.
"""

from __future__ import annotations

from typing import Any

from alembic import context

from ..errors import ConfigurationError
from ..tenancy import Tenancy
from .access import Access, Place
from .application import find_source
from .locks import holding
from .migrate import check_version_table

__all__ = ["run"]


def run(target_metadata: Any = None, *, tenancy: Tenancy | None = None, **options: Any) -> None:
    """Run what Alembic was asked for, on the tenant that ``-x tenant=ID`` names.

    ``-x shared=1`` means the shared place. *tenancy* is the application's; ``None`` finds it as
    the command line does, with ``-x app=module:tenancy`` and ``-x file=tenants.toml`` before
    that. *options* go to Alembic's ``context.configure``.

    Raises:
        ConfigurationError: No tenant is named, or *options* would give all one version table.
        UnknownTenantError: There is no such tenant.
        PlacementMissingError: Its place does not exist.
    """
    if target_metadata is not None:
        options["target_metadata"] = target_metadata
    attributes = context.config.attributes
    learned = attributes.get("tenantry")
    if learned is not None:
        learned.update(options)
        return
    arguments: dict[str, Any] = context.get_x_argument(as_dictionary=True)
    tenancy = tenancy or attributes.get("tenantry_tenancy")
    if tenancy is None:
        tenancy = find_source(arguments.get("app"), arguments.get("file")).load()
    with Access(tenancy.servers) as access:
        place = _place(access, tenancy, attributes.get("tenantry_tenant"), arguments)
        check_version_table(place, options)
        if context.is_offline_mode():
            _write_sql(access, place, options)
            return
        with (
            holding(access, place, "migrate", wait_seconds=60.0, inside=True) as got,
            access.enter(place, write=True) as connection,
        ):
            if not got:
                raise ConfigurationError(
                    f"tenant {place.name!r} is being migrated by another process; wait for it"
                )
            if connection.dialect.name == "sqlite":
                options.setdefault("transactional_ddl", True)
            context.configure(
                connection=connection, **{"transaction_per_migration": True, **options}
            )
            with context.begin_transaction():
                context.run_migrations()


def _place(access: Access, tenancy: Tenancy, named: str | None, arguments: Any) -> Place:
    named = named or arguments.get("tenant")
    if named:
        return access.place(tenancy.get(str(named)))
    shared = tenancy._router.shared
    if "shared" in arguments:
        if shared is None:
            raise ConfigurationError("no shared place is configured; give Tenancy(shared=...)")
        return Place(tenancy.servers[shared.server], shared)
    raise ConfigurationError(
        "say which tenant: `alembic -x tenant=ID ...`, or `alembic -x shared=1 ...`; "
        "`tenantry migrate` works on all of them"
    )


def _write_sql(access: Access, place: Place, options: dict[str, Any]) -> None:
    engine = access.engine(place.server)
    context.configure(
        dialect_name=engine.dialect.name,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        **{"transaction_per_migration": True, **options},
    )
    with context.begin_transaction():
        if place.schema is not None and engine.dialect.name == "postgresql":
            context.execute(f"SET search_path TO {place.backend.quote(place.schema)}, pg_temp")
        context.run_migrations()
