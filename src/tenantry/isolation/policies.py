"""Row-level security for PostgreSQL, generated from the models: statements, none is run here.

The owner of the tables is not the application's login; the login may read and write rows and
nothing else. Each table has one policy that lets the tenant's rows in and a second, restrictive
one with the same condition, so that no further policy can let in more. Both are forced on the
owner too. A setting that is missing or empty is no tenant: no row. What the models do not know
(a forgotten table, a partition, a materialized view) is closed to the login.

Sources: PostgreSQL manual, *Row Security Policies* (owner and BYPASSRLS; permissive and
restrictive; keys and foreign keys see all rows), *CREATE VIEW* (``security_invoker``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

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
from sqlalchemy import (
    Sequence as DatabaseSequence,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import AddConstraint, Constraint, CreateIndex, PrimaryKeyConstraint

from ..backends.citus import Citus
from ..backends.postgresql import TENANT_SETTING, PostgreSQL
from ..errors import ConfigurationError
from .tables import TENANT_COLUMN, bind_key_of, is_shared, tenant_column

__all__ = [
    "FENCE",
    "POLICY",
    "adoption_statements",
    "distribution_statements",
    "policy_statements",
    "rows_metadata",
    "tenant_tables",
    "view_statements",
]

POLICY = "tenantry_tenant"
FENCE = "tenantry_fence"
_quote = PostgreSQL().quote
_dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy gives it no types


# Tables ---------------------------------------------------------------------------------------


def rows_metadata(metadata: MetaData) -> MetaData:
    """A copy of *metadata* for tables that many tenants share.

    The tenant column joins every primary key, unique constraint, unique index and foreign key
    between tenant tables, because keys see all tenants' rows whatever the policies say: without
    it one tenant could take another's key, learn that it exists, or point at its row. A table
    that has no tenant column but refers to one that has (an association table, the table of a
    subclass) gets one, which the server fills. The models stay as they are.

    ``ON DELETE SET NULL`` needs PostgreSQL 15, where it can spare the tenant column.

    Raises:
        ConfigurationError: A tenant table has no tenant column, or an exclusion constraint
            without it.
    """
    copy = MetaData(schema=metadata.schema, naming_convention=metadata.naming_convention)
    copy.info.update(metadata.info)
    for table in metadata.sorted_tables:
        if bind_key_of(table) is None:
            table.to_metadata(copy)
    ours = [table for table in copy.sorted_tables if not is_shared(table)]
    for table in ours:
        _require_column(table, add=True)
    for table in ours:
        _with_tenant_in_keys(table)
    return copy


def tenant_tables(metadata: MetaData) -> list[Table]:
    """The tables of *metadata* that hold tenants' rows, each after those it refers to."""
    return [
        table
        for table in metadata.sorted_tables
        if bind_key_of(table) is None and not is_shared(table)
    ]


def _require_column(table: Table, *, add: bool = False) -> Column[Any]:
    column = tenant_column(table)
    if column is not None:
        return column
    for constraint in table.foreign_key_constraints if add else ():
        theirs = tenant_column(constraint.referred_table)
        if theirs is not None:
            added: Column[Any] = Column(
                theirs.name, theirs.type, nullable=False, info={"tenantry": TENANT_COLUMN}
            )
            table.append_column(added)
            return added
    raise ConfigurationError(
        f"table {table.name!r} has no tenant column, so it cannot be shared by tenants; add "
        "the mixin TenantRows, or mark the table as shared"
    )


def _with_tenant_in_keys(table: Table) -> None:
    column = _require_column(table)
    # An insert in plain SQL is the tenant's too, and on a session of no tenant it fails.
    column.server_default = DefaultClause(text(_setting(column)))
    column.nullable = False
    own = table.primary_key
    names = [each.name for each in own.columns]
    if names and column.name not in names:
        counted = table.autoincrement_column
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
    for constraint in sorted(table.constraints, key=_columns_of):
        if isinstance(constraint, ForeignKeyConstraint):
            _with_tenant_in_foreign_key(table, column, constraint)
        elif isinstance(constraint, ExcludeConstraint):
            if column.name not in constraint.columns:
                raise ConfigurationError(
                    f"an exclusion constraint of table {table.name!r} would compare rows of "
                    f"different tenants; add ({column.name!r}, '=') to it"
                )
        elif isinstance(constraint, UniqueConstraint) and column.name not in constraint.columns:
            table.constraints.discard(constraint)
            table.append_constraint(
                UniqueConstraint(
                    column.name,
                    *[each.name for each in constraint.columns],
                    name=constraint.name,
                    deferrable=constraint.deferrable,
                    initially=constraint.initially,
                    **constraint.dialect_kwargs,
                )
            )
    for index in sorted(table.indexes, key=lambda each: str(each.name)):
        if index.unique and column.name not in index.columns:
            table.indexes.discard(index)
            Index(index.name, column, *index.expressions, unique=True, **index.dialect_kwargs)


def _columns_of(constraint: Constraint) -> list[str]:
    return [type(constraint).__name__, *getattr(constraint, "columns", {}).keys()]


def _with_tenant_in_foreign_key(
    table: Table, column: Column[Any], constraint: ForeignKeyConstraint
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
    prefix = f"{referred.schema}.{referred.name}" if referred.schema else referred.name
    table.append_constraint(
        _ForeignKey(
            [column.name, *[element.parent.name for element in elements]],
            [f"{prefix}.{theirs.name}"]
            + [f"{prefix}.{element.column.name}" for element in elements],
            name=constraint.name,
            ondelete=constraint.ondelete,
            onupdate=constraint.onupdate,
            deferrable=constraint.deferrable,
            initially=constraint.initially,
            match=constraint.match,
            use_alter=constraint.use_alter,
        )
    )


class _ForeignKey(ForeignKeyConstraint):
    """PostgreSQL 15: ``ON DELETE SET NULL`` sets the other columns, the tenant column stays."""


@compiles(_ForeignKey)
def _sparing(constraint: _ForeignKey, compiler: Any, **options: Any) -> str:
    # Not in `ondelete`, because SQLAlchemy before 2.0.40 takes no columns there.
    written: str = compiler.visit_foreign_key_constraint(constraint, **options)
    names = ", ".join(_quote(each.parent.name) for each in list(constraint.elements)[1:])
    return re.sub(r"(ON DELETE SET (?:NULL|DEFAULT))\b", rf"\1 ({names})", written, flags=re.I)


# Policies -------------------------------------------------------------------------------------


def policy_statements(
    metadata: MetaData, *, schema: str, login: str, close_others: bool = True
) -> list[str]:
    """What the owner runs once the tables of :func:`rows_metadata` are there; repeatable.

    *schema* holds the tables that name none, *login* is the application's: it gets the rights to
    rows and to sequences, and no others. With *close_others* it loses those to whatever else is
    in these schemas, and views read as who asks; say ``False`` if models of another metadata are
    there, too.

    Raises:
        ConfigurationError: A tenant table has no tenant column.
    """
    tables = [table for table in metadata.sorted_tables if bind_key_of(table) is None]
    role = _quote(login)
    schemas = sorted({schema, *(table.schema for table in tables if table.schema)})
    statements = [f"REVOKE CREATE ON SCHEMA {_quote(each)} FROM PUBLIC, {role}" for each in schemas]
    statements += [f"GRANT USAGE ON SCHEMA {_quote(each)} TO {role}" for each in schemas]
    for table in tables:
        name = _name(table, schema)
        statements.append(f"REVOKE ALL ON TABLE {name} FROM PUBLIC, {role}")
        if is_shared(table):
            statements.append(f"GRANT SELECT ON TABLE {name} TO {role}")
            continue
        statements += _fenced(name, _require_column(table))
        statements.append(f"GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {name} TO {role}")
        statements += _sequences(table, name, schema, role)
    if close_others:
        known = {each: [t.name for t in tables if (t.schema or schema) == each] for each in schemas}
        statements += [_close_others(each, known[each], role) for each in schemas]
    return statements


def _name(table: Table, schema: str) -> str:
    return f"{_quote(table.schema or schema)}.{_quote(table.name)}"


def _string(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _setting(column: Column[Any]) -> str:
    """The current tenant's key in SQL, of the column's type; NULL when there is none.

    A setting that was reset is an empty string and not NULL (PostgreSQL manual, current_setting).
    """
    kind = column.type.compile(dialect=_dialect)
    cast = "" if kind.upper().startswith(("VARCHAR", "TEXT", "CHAR")) else f"::{kind}"
    return f"NULLIF(current_setting('{TENANT_SETTING}', true), ''){cast}"


def _fenced(name: str, column: Column[Any]) -> list[str]:
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


def _sequences(table: Table, name: str, schema: str, role: str) -> Iterator[str]:
    counted = table.autoincrement_column
    if counted is not None:
        sequence = f"pg_get_serial_sequence({_string(name)}, {_string(counted.name)})"
        grant = _string(f" TO {role}")
        yield (
            f"DO $tenantry$ BEGIN IF {sequence} IS NOT NULL THEN EXECUTE "
            f"'GRANT USAGE ON SEQUENCE ' || {sequence} || {grant}; END IF; END $tenantry$"
        )
    for column in table.columns:
        default = column.default
        if isinstance(default, DatabaseSequence):
            place = f"{_quote(default.schema or table.schema or schema)}.{_quote(default.name)}"
            yield f"GRANT USAGE ON SEQUENCE {place} TO {role}"


def _close_others(schema: str, known: Sequence[str], role: str) -> str:
    """Take the login's rights to relations that the models do not know, and set views right.

    Rights to a partitioned table are enough to reach its partitions through it.
    """
    names = ", ".join(map(_string, known)) or "NULL"
    revoke = _string(f" FROM PUBLIC, {role}")
    return f"""\
DO $tenantry$ DECLARE each record; BEGIN
  FOR each IN SELECT c.oid::regclass AS name, c.relkind AS kind FROM pg_class c
    WHERE c.relnamespace = {_string(_quote(schema))}::regnamespace
    AND c.relkind IN ('r', 'p', 'f', 'm', 'v') AND c.relname NOT IN ({names})
    AND pg_has_role(c.relowner, 'USAGE')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
  LOOP
    IF each.kind <> 'v' OR current_setting('server_version_num')::int < 150000 THEN
      EXECUTE 'REVOKE ALL ON TABLE ' || each.name || {revoke};
    ELSE
      EXECUTE 'ALTER VIEW ' || each.name || ' SET (security_invoker = true)';
    END IF;
  END LOOP;
  FOR each IN SELECT p.oid::regprocedure AS name FROM pg_proc p
    WHERE p.pronamespace = {_string(_quote(schema))}::regnamespace AND p.prosecdef
    AND pg_has_role(p.proowner, 'USAGE')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
  LOOP
    EXECUTE 'REVOKE ALL ON ROUTINE ' || each.name || {revoke};
  END LOOP;
END $tenantry$"""  # noqa: S608


def distribution_statements(metadata: MetaData, *, schema: str) -> list[str]:
    """What the owner runs on a Citus once the tables of :func:`rows_metadata` are there.

    It may be repeated. Shared tables become reference tables, of which each worker has a copy;
    the tenants' are spread by the tenant column, so that one tenant's rows are on one worker and
    joins stay there. Run them before :func:`policy_statements`.

    Raises:
        ConfigurationError: A tenant table has no tenant column.
    """
    # What is referred to goes first: a key may point at nothing that is on one machine only.
    tables = [table for table in metadata.sorted_tables if bind_key_of(table) is None]
    tables.sort(key=lambda table: not is_shared(table))
    citus = Citus()
    return [
        citus.distribute_table(
            table.schema or schema,
            table.name,
            None if is_shared(table) else _require_column(table).name,
        )
        for table in tables
    ]


def view_statements(names: Sequence[str], *, schema: str, login: str) -> list[str]:
    """Views read as who asks, not as their owner (PostgreSQL 15 and newer)."""
    statements = []
    for each in names:
        name = f"{_quote(schema)}.{_quote(each)}"
        statements.append(f"ALTER VIEW {name} SET (security_invoker = true)")
        statements.append(f"GRANT SELECT ON {name} TO {_quote(login)}")
    return statements


# Adoption -------------------------------------------------------------------------------------


def adoption_statements(
    metadata: MetaData, *, schema: str, login: str, tenant_key: str
) -> list[str]:
    """Statements that turn existing tables of one tenant into tables that tenants share.

    They add the tenant column, give every row to *tenant_key*, put the column into the keys and
    set the policies. To be read, and run once, in one transaction, by the tables' owner. Old
    keys are found in the catalogue by their columns, whatever their names are.

    Raises:
        ConfigurationError: A tenant table's model has no tenant column, or the key is no key.
    """
    shared = rows_metadata(metadata)
    value = PostgreSQL().literal(tenant_key)
    columns: list[str] = []
    drops: list[tuple[int, str]] = []
    keys: list[tuple[int, str]] = []
    for after in tenant_tables(shared):
        before = metadata.tables[after.key]
        name = _name(after, schema)
        column = _require_column(after)
        kind = column.type.compile(dialect=_dialect)
        columns += [
            f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {_quote(column.name)} {kind}",
            # The owner is bound by the policies too, should there be any already.
            f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY",
            _backfill(name, _quote(column.name), value),
            f"ALTER TABLE {name} ALTER COLUMN {_quote(column.name)} SET NOT NULL",
        ]
        kept = {_signature(each) for each in after.constraints}
        for constraint in before.constraints:
            kind_of = _KINDS.get(type(constraint))
            if kind_of is not None and _signature(constraint) not in kept:
                drops.append((kind_of[0], _drop_constraint(name, kind_of[1], constraint)))
        was = {_signature(each) for each in before.constraints}
        for constraint in after.constraints:
            kind_of = _KINDS.get(type(constraint))
            if kind_of is not None and _signature(constraint) not in was:
                ddl = AddConstraint(constraint)
                keys.append((-kind_of[0], _compiled(ddl, schema)))
        old = {each.name: each for each in before.indexes}
        for index in after.indexes:
            if index.unique and index.name in old and column.name not in old[index.name].columns:
                place = f"{_quote(after.schema or schema)}.{_quote(str(index.name))}"
                drops.append((1, f"DROP INDEX IF EXISTS {place}"))
                keys.append((-1, _compiled(CreateIndex(index), schema)))
    return [
        *columns,
        *[statement for _, statement in sorted(drops)],
        *[statement for _, statement in sorted(keys)],
        *policy_statements(shared, schema=schema, login=login),
    ]


#: When they are dropped (and, in reverse, added), and their letter in the catalogue.
_KINDS: dict[type[Constraint], tuple[int, str]] = {
    ForeignKeyConstraint: (0, "f"),
    _ForeignKey: (0, "f"),
    UniqueConstraint: (1, "u"),
    PrimaryKeyConstraint: (2, "p"),
}


def _signature(constraint: Constraint) -> tuple[Any, ...]:
    columns = tuple(each.name for each in getattr(constraint, "columns", ()))
    referred: tuple[str, ...] = ()
    if isinstance(constraint, ForeignKeyConstraint):
        referred = tuple(element.target_fullname for element in constraint.elements)
    return _KINDS.get(type(constraint)), columns, referred


def _compiled(ddl: Any, schema: str) -> str:
    text = ddl.compile(
        dialect=_dialect, schema_translate_map={None: schema}, render_schema_translate=True
    )
    return " ".join(str(text).split())


def _backfill(name: str, column: str, value: str) -> str:
    # Names come from the models and are quoted, the key is checked by `literal`.
    return f"UPDATE {name} SET {column} = {value} WHERE {column} IS NULL"  # noqa: S608


def _drop_constraint(name: str, kind: str, constraint: Constraint) -> str:
    columns = sorted(each.name for each in getattr(constraint, "columns", ()))
    listed = ", ".join(map(_string, columns))
    return (
        "DO $tenantry$ DECLARE each name; BEGIN FOR each IN SELECT c.conname FROM pg_constraint c "  # noqa: S608
        f"WHERE c.conrelid = {_string(name)}::regclass AND c.contype = '{kind}' AND ("
        'SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C") '
        "FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)"
        f") = ARRAY[{listed}] LOOP EXECUTE 'ALTER TABLE {name.replace(chr(39), chr(39) * 2)} "
        "DROP CONSTRAINT ' || quote_ident(each); END LOOP; END $tenantry$"
    )
