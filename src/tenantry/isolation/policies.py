"""Row-level security for PostgreSQL, generated from the models: statements, none is run here.

The owner of the tables is not the application's login; the login may read and write rows and
nothing else. Each table has one policy that lets the tenant's rows in and a second, restrictive
one with the same condition, so that no further policy can let in more. Both are forced on the
owner too. A setting that is missing or empty is no tenant: no row.

Sources: PostgreSQL manual, *Row Security Policies* (owner and BYPASSRLS; permissive and
restrictive; keys and foreign keys see all rows), *CREATE VIEW* (``security_invoker``).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
    Column,
    DefaultClause,
    ForeignKeyConstraint,
    Index,
    MetaData,
    Table,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import PrimaryKeyConstraint

from ..backends.postgresql import TENANT_SETTING, PostgreSQL
from ..errors import ConfigurationError
from .tables import bind_key_of, is_shared, tenant_column

__all__ = ["adoption_statements", "policy_statements", "rows_metadata", "view_statements"]

POLICY = "tenantry_tenant"
FENCE = "tenantry_fence"
_quote = PostgreSQL().quote
_dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy gives it no types


def rows_metadata(metadata: MetaData) -> MetaData:
    """A copy of *metadata* for tables that many tenants share.

    The tenant column joins every primary key, unique constraint, unique index and foreign key
    between tenant tables, because keys see all tenants' rows whatever the policies say: without
    it one tenant could take another's key, learn that it exists, or point at its row. The models
    stay as they are.

    Raises:
        ConfigurationError: A tenant table has no tenant column.
    """
    copy = MetaData(schema=metadata.schema, naming_convention=metadata.naming_convention)
    copy.info.update(metadata.info)
    for table in metadata.sorted_tables:
        if bind_key_of(table) is None:
            table.to_metadata(copy)
    for table in copy.sorted_tables:
        if not is_shared(table):
            _require_column(table)
            _with_tenant_in_keys(table)
    return copy


def _require_column(table: Table) -> Column[object]:
    column = tenant_column(table)
    if column is None:
        raise ConfigurationError(
            f"table {table.name!r} has no tenant column, so it cannot be shared by tenants; add "
            "the mixin TenantRows, or mark the table as shared"
        )
    return column


def _with_tenant_in_keys(table: Table) -> None:
    column = _require_column(table)
    # An insert in plain SQL is the tenant's too, and on a session of no tenant it fails.
    column.server_default = DefaultClause(text(_setting(column)))
    own = table.primary_key
    if column.name not in own.columns:
        counted = table.autoincrement_column
        names = [each.name for each in own.columns]
        table.constraints.discard(own)
        column.primary_key = True
        table.append_constraint(
            PrimaryKeyConstraint(
                column.name,
                *names,
                name=own.name,  # type: ignore[arg-type]  # SQLAlchemy's own
            )
        )
        if counted is not None:
            counted.autoincrement = True
    for constraint in list(table.constraints):
        if isinstance(constraint, UniqueConstraint) and column.name not in constraint.columns:
            table.constraints.discard(constraint)
            table.append_constraint(
                UniqueConstraint(
                    column.name, *[each.name for each in constraint.columns], name=constraint.name
                )
            )
        elif isinstance(constraint, ForeignKeyConstraint):
            _with_tenant_in_foreign_key(table, column, constraint)
    for index in list(table.indexes):
        if index.unique and column.name not in index.columns:
            table.indexes.discard(index)
            Index(index.name, column, *index.expressions, unique=True, **index.dialect_kwargs)


def _with_tenant_in_foreign_key(
    table: Table, column: Column[object], constraint: ForeignKeyConstraint
) -> None:
    referred = constraint.referred_table
    theirs = tenant_column(referred)
    if theirs is None or column.name in constraint.column_keys:
        return
    elements = list(constraint.elements)
    for element in elements:
        element.parent.foreign_keys.discard(element)
        table.foreign_keys.discard(element)
    table.constraints.discard(constraint)
    if constraint.ondelete is not None and constraint.ondelete.upper().startswith("SET"):
        names = ", ".join(_quote(key) for key in constraint.column_keys)
        # PostgreSQL 15: only these columns are set, the tenant column stays.
        ondelete: str | None = f"{constraint.ondelete} ({names})"
    else:
        ondelete = constraint.ondelete
    prefix = f"{referred.schema}.{referred.name}" if referred.schema else referred.name
    table.append_constraint(
        ForeignKeyConstraint(
            [column.name, *constraint.column_keys],
            [f"{prefix}.{theirs.name}"]
            + [f"{prefix}.{element.column.name}" for element in elements],
            name=constraint.name,
            ondelete=ondelete,
            onupdate=constraint.onupdate,
            deferrable=constraint.deferrable,
            initially=constraint.initially,
            use_alter=constraint.use_alter,
        )
    )


def policy_statements(metadata: MetaData, *, schema: str, login: str) -> list[str]:
    """What the owner runs once the tables of :func:`rows_metadata` are there; repeatable.

    *schema* holds the tables, *login* is the application's: it gets the rights to rows and to
    sequences, and no others.

    Raises:
        ConfigurationError: A tenant table has no tenant column.
    """
    place = _quote(schema)
    role = _quote(login)
    statements = [f"GRANT USAGE ON SCHEMA {place} TO {role}"]
    for table in metadata.sorted_tables:
        if bind_key_of(table) is not None:
            continue
        name = f"{place}.{_quote(table.name)}"
        statements.append(f"REVOKE ALL ON TABLE {name} FROM PUBLIC, {role}")
        if is_shared(table):
            statements.append(f"GRANT SELECT ON TABLE {name} TO {role}")
            continue
        statements += _fenced(name, _require_column(table))
        statements.append(f"GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {name} TO {role}")
        counted = table.autoincrement_column
        if counted is not None:
            sequence = f"pg_get_serial_sequence('{name}', '{counted.name}')"
            statements.append(
                "DO $tenantry$ BEGIN IF " + sequence + " IS NOT NULL THEN EXECUTE "
                "'GRANT USAGE ON SEQUENCE ' || " + sequence + f" || ' TO {role}'; "
                "END IF; END $tenantry$"
            )
    return statements


def _setting(column: Column[object]) -> str:
    """The current tenant's key in SQL, of the column's type; NULL when there is none.

    A setting that was reset is an empty string and not NULL (PostgreSQL manual, current_setting).
    """
    kind = column.type.compile(dialect=_dialect)
    cast = "" if kind.upper().startswith(("VARCHAR", "TEXT", "CHAR")) else f"::{kind}"
    return f"NULLIF(current_setting('{TENANT_SETTING}', true), ''){cast}"


def _fenced(name: str, column: Column[object]) -> list[str]:
    condition = f"({_quote(column.name)} = {_setting(column)})"
    return [
        f"ALTER TABLE {name} ALTER COLUMN {_quote(column.name)} SET DEFAULT {_setting(column)}",
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY",
        f"DROP POLICY IF EXISTS {POLICY} ON {name}",
        f"DROP POLICY IF EXISTS {FENCE} ON {name}",
        f"CREATE POLICY {POLICY} ON {name} USING {condition} WITH CHECK {condition}",
        f"CREATE POLICY {FENCE} ON {name} AS RESTRICTIVE USING {condition} WITH CHECK {condition}",
    ]


def view_statements(names: Sequence[str], *, schema: str, login: str) -> list[str]:
    """Views read as who asks, not as their owner (PostgreSQL 15 and newer)."""
    statements = []
    for each in names:
        name = f"{_quote(schema)}.{_quote(each)}"
        statements.append(f"ALTER VIEW {name} SET (security_invoker = true)")
        statements.append(f"GRANT SELECT ON {name} TO {_quote(login)}")
    return statements


def adoption_statements(
    metadata: MetaData, *, schema: str, login: str, tenant_key: str
) -> list[str]:
    """Statements that turn existing tables of one tenant into tables that tenants share.

    They add the tenant column, give every row to *tenant_key*, put the column into the keys and
    set the policies. To be read, and run in one transaction by the tables' owner. Names of
    constraints are PostgreSQL's own defaults where the models give none.

    Raises:
        ConfigurationError: A tenant table's model has no tenant column, or the key is no key.
    """
    shared = rows_metadata(metadata)
    place = _quote(schema)
    value = PostgreSQL().literal(tenant_key)
    statements: list[str] = []
    drops: list[str] = []
    keys: list[str] = []
    foreign: list[str] = []
    for table in metadata.sorted_tables:
        if bind_key_of(table) is not None or is_shared(table):
            continue
        name = f"{place}.{_quote(table.name)}"
        column = _require_column(table)
        kind = column.type.compile(dialect=_dialect)
        statements += [
            f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {_quote(column.name)} {kind}",
            _backfill(name, _quote(column.name), value),
            f"ALTER TABLE {name} ALTER COLUMN {_quote(column.name)} SET NOT NULL",
        ]
        after = shared.tables[table.key]
        for constraint in table.constraints:
            if isinstance(constraint, ForeignKeyConstraint):
                if tenant_column(constraint.referred_table) is None:
                    continue
                drops.insert(0, _drop(name, table, constraint))
            elif isinstance(constraint, (PrimaryKeyConstraint, UniqueConstraint)):
                drops.append(_drop(name, table, constraint))
        for constraint in after.constraints:
            columns = ", ".join(_quote(each.name) for each in constraint.columns)  # type: ignore[attr-defined]
            if isinstance(constraint, PrimaryKeyConstraint):
                keys.append(f"ALTER TABLE {name} ADD PRIMARY KEY ({columns})")
            elif isinstance(constraint, UniqueConstraint):
                keys.append(f"ALTER TABLE {name} ADD UNIQUE ({columns})")
            elif isinstance(constraint, ForeignKeyConstraint):
                if tenant_column(constraint.referred_table) is None:
                    continue
                theirs = f"{place}.{_quote(constraint.referred_table.name)}"
                referred = ", ".join(_quote(each.column.name) for each in constraint.elements)
                foreign.append(
                    f"ALTER TABLE {name} ADD FOREIGN KEY ({columns}) "
                    f"REFERENCES {theirs} ({referred})"
                )
    ordered = sorted(drops, key=lambda each: "_fkey" not in each)
    return [
        *statements,
        *ordered,
        *keys,
        *foreign,
        *policy_statements(shared, schema=schema, login=login),
    ]


def _backfill(name: str, column: str, value: str) -> str:
    # Names come from the models and are quoted, the key is checked by `literal`.
    return f"UPDATE {name} SET {column} = {value} WHERE {column} IS NULL"  # noqa: S608


def _drop(name: str, table: Table, constraint: object) -> str:
    given = getattr(constraint, "name", None)
    if isinstance(given, str):
        own = given
    elif isinstance(constraint, PrimaryKeyConstraint):
        own = f"{table.name}_pkey"
    else:
        columns = "_".join(each.name for each in constraint.columns)  # type: ignore[attr-defined]
        suffix = "fkey" if isinstance(constraint, ForeignKeyConstraint) else "key"
        own = f"{table.name}_{columns}_{suffix}"
    return f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {_quote(own)} CASCADE"
