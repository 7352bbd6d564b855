"""Rows of many tenants in one table: every statement reads and writes the tenant's alone.

The condition is added where SQLAlchemy compiles a statement, so it reaches whatever becomes a
table in SQL: subqueries and CTEs, aliases, both sides of joins, what eager loading adds and what
a flush sends. A table is filtered before it is joined, as row-level security does it: the
condition stands in WHERE, in the ON of an outer join, and elsewhere in a subquery in the table's
place. It costs nothing once a statement is in the compiled cache.

Where the server has row-level security this is the second line. Elsewhere it is the only one, so
that what cannot be read (text, bare connections) is refused.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NoReturn

from sqlalchemy import Table, and_, bindparam, select
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.dml import Insert, Update
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import FromClause, FromClauseAlias, Join

from ..errors import UnsupportedError
from ..isolation import Target
from ..isolation.tables import is_shared, key_in, tenant_column
from ..tenant import Tenant
from .dialect import reflecting
from .values import check_values, keys_hold_tenant, names_tenant

__all__ = ["FILTERED", "BareConnection", "bare_refused", "keep_rows"]

#: Execution option by which the caller swears that a piece of text filters by tenant itself.
FILTERED = "tenantry_filtered"

_NAME = r"[A-Za-z_][\w$]*(?:\.(?:[A-Za-z_][\w$]*|\*))*"
# Text that cannot read a table: `*`, numbers, plain strings, names of columns, an order.
_HARMLESS = re.compile(
    rf"\s*(?:\*|-?\d+(?:\.\d+)?|'[\w\s.,:%-]*'|{_NAME}(?:\s+(?:asc|desc))?)"
    rf"(?:\s*,\s*(?:\*|\d+|{_NAME}(?:\s+(?:asc|desc))?))*\s*",
    re.IGNORECASE,
)
_WORD = re.compile(r"\s*\w+\s*")
_HINT = re.compile(r"\s*(?:use|force|ignore)\s+(?:index|key)\s*\([\w\s,`]*\)\s*|\s*", re.IGNORECASE)
_OPERATOR = re.compile(r"(?!.*(?:--|/\*|#\s))[^\w\s'\"`();,]{1,4}|[a-z]{2,8}(?: [a-z]{2,5})?", re.I)

_key: ContextVar[str] = ContextVar("tenantry_key")
_classes: dict[tuple[type[Dialect], bool], type[Dialect]] = {}


def keep_rows(connection: Connection, target: Target) -> None:
    """Have *connection* compile and check everything for the rows of its tenant.

    It gets a dialect of its own kind, so that the compiled statements of tenants who share
    tables and of those who do not are kept apart in the one cache.
    """
    if target.tenant is None or not (target.rows or target.filter_rows):
        return
    plain = connection.dialect
    kept = plain.__dict__.get("_tenantry_rows")
    if kept is None:
        kept = copy.copy(plain)
        kept.__class__ = _kept_dialect(type(plain), strict=target.filter_rows)
        plain.__dict__["_tenantry_rows"] = kept
    connection.dialect = kept


def _kept_dialect(base: type[Dialect], *, strict: bool) -> type[Dialect]:
    found = _classes.get((base, strict))
    if found is None:
        found = _classes[base, strict] = _make_dialect(base, strict)
    return found


def _make_dialect(base: Any, strict: bool) -> Any:
    class Kept(base):  # type: ignore[misc]  # the base is known at run time only
        # SQLAlchemy copies this mark of each dialect class, it is not inherited.
        supports_statement_cache = base.supports_statement_cache
        statement_compiler = _compiler(base.statement_compiler)
        execution_ctx_cls = _execution(base.execution_ctx_cls, strict)

    for name in ("get_isolation_level", "set_isolation_level", "reset_isolation_level"):
        setattr(Kept, name, _unwrapping(Kept, name))
    Kept.__name__ = Kept.__qualname__ = base.__name__
    return Kept


def _unwrapping(owner: type, name: str) -> Callable[..., Any]:
    def method(self: Any, connection: Any, *args: Any) -> Any:
        if isinstance(connection, BareConnection):
            connection = connection._proxied.dbapi_connection
        return getattr(super(owner, self), name)(connection, *args)

    method.__name__ = name
    return method


# What a statement becomes ---------------------------------------------------------------------


def _compiler(base: Any) -> Any:
    class KeptCompiler(base):  # type: ignore[misc]  # the base is known at run time only
        """*unkept* says why the statement cannot be kept to a tenant's rows, if it cannot."""

        unkept: str | None = None

        def __init__(self, *args: Any, **options: Any) -> None:
            self._frames: list[set[FromClause]] = []
            super().__init__(*args, **options)  # compiles

        # Reading --------------------------------------------------------------------------

        def _compose_select_body(
            self,
            text: str,
            select_stmt: Any,
            compile_state: Any,
            inner_columns: Any,
            froms: Sequence[FromClause],
            *rest: Any,
        ) -> Any:
            kept, conditions, frame = _kept_froms(froms)
            if conditions:
                select_stmt = select_stmt._clone()
                select_stmt._where_criteria += tuple(conditions)
            with self._framed(frame):
                return super()._compose_select_body(
                    text, select_stmt, compile_state, inner_columns, kept, *rest
                )

        @contextmanager
        def _framed(self, frame: set[FromClause]) -> Iterator[None]:
            self._frames.append(frame)
            try:
                yield
            finally:
                self._frames.pop()

        def visit_table(
            self,
            table: Any,
            asfrom: bool = False,
            iscrud: bool = False,
            ashint: bool = False,
            enclosing_alias: Any = None,
            **options: Any,
        ) -> Any:
            text = super().visit_table(
                table,
                asfrom=asfrom,
                iscrud=iscrud,
                ashint=ashint,
                enclosing_alias=enclosing_alias,
                **options,
            )
            if not asfrom or ashint:
                return text
            column = self._column_of(table)
            if column is None or iscrud:
                return text
            # A subquery's alias comes down to the tables within, too.
            aliased = enclosing_alias is not None and enclosing_alias.element is table
            part = enclosing_alias if aliased else table
            if self._frames and part in self._frames[-1]:
                return text
            if table.schema:
                self.unkept = f"table {table.fullname!r} cannot be filtered in this place"
            name = self.preparer.quote(table.name)
            own = self.process(_condition(table, column))
            alias = "" if aliased else self.get_render_as_alias_suffix(name)
            return f"(SELECT * FROM {name} WHERE {own}){alias}"  # noqa: S608

        def _column_of(self, table: Any) -> Any:
            if not isinstance(table, Table):
                self.unkept = f"table {table.name!r} is a bare name; use a Table or a model"
                return None
            column = tenant_column(table)
            if column is None and not is_shared(table):
                self.unkept = (
                    f"table {table.name!r} has no tenant column; add the mixin TenantRows, or "
                    "mark the table as shared"
                )
            return column

        # Writing --------------------------------------------------------------------------

        def visit_insert(self, insert_stmt: Any, *args: Any, **options: Any) -> Any:
            self._column_of(insert_stmt.table)
            with self._framed(set()):
                return super().visit_insert(insert_stmt, *args, **options)

        def visit_update(self, update_stmt: Any, *args: Any, **options: Any) -> Any:
            statement, frame = _kept_target(update_stmt)
            with self._framed(frame):
                return super().visit_update(statement, *args, **options)

        def visit_delete(self, delete_stmt: Any, *args: Any, **options: Any) -> Any:
            statement, frame = _kept_target(delete_stmt)
            with self._framed(frame):
                return super().visit_delete(statement, *args, **options)

        def visit_on_conflict_do_update(self, on_conflict: Any, **options: Any) -> Any:
            # The row in the way may be another tenant's: it must not be changed.
            table = self.stack[-1]["selectable"].table
            column = tenant_column(table) if isinstance(table, Table) else None
            if column is not None:
                if names_tenant(dict(on_conflict.update_values_to_set), column):
                    self.unkept = "ON CONFLICT must not set the tenant column"
                own = _condition(table, column)
                given = on_conflict.update_whereclause
                on_conflict = on_conflict._clone()
                on_conflict.update_whereclause = own if given is None else and_(given, own)
            return super().visit_on_conflict_do_update(on_conflict, **options)

        def visit_on_duplicate_key_update(self, on_duplicate: Any, **options: Any) -> Any:
            table = self.stack[-1]["selectable"].table
            if isinstance(table, Table) and not keys_hold_tenant(table):
                self.unkept = (
                    "ON DUPLICATE KEY UPDATE changes the row in the way, whose ever it is, unless "
                    f"every key of table {table.name!r} holds the tenant column"
                )
            return super().visit_on_duplicate_key_update(on_duplicate, **options)

        # Text -----------------------------------------------------------------------------

        def visit_textclause(self, textclause: Any, *args: Any, **options: Any) -> Any:
            self._check_text(textclause.text)
            if options.get("asfrom"):
                self.unkept = _TEXT
            return super().visit_textclause(textclause, *args, **options)

        def _generate_prefixes(self, stmt: Any, prefixes: Any, **options: Any) -> Any:
            # Suffixes as well: they may stand behind a FROM.
            for prefix, *_ in prefixes:
                if _WORD.fullmatch(str(getattr(prefix, "text", ""))) is None:
                    self.unkept = _TEXT
            return super()._generate_prefixes(stmt, prefixes, **options)

        def visit_tstring(self, tstring: Any, *args: Any, **options: Any) -> Any:
            self.unkept = _TEXT
            return super().visit_tstring(tstring, *args, **options)

        def visit_textual_select(self, taf: Any, *args: Any, **options: Any) -> Any:
            self.unkept = _TEXT
            return super().visit_textual_select(taf, *args, **options)

        def visit_column(self, column: Any, *args: Any, **options: Any) -> Any:
            # A name of quoted_name(..., quote=False) is text, too.
            if column.is_literal or getattr(column.name, "quote", None) is False:
                self._check_text(column.name)
            return super().visit_column(column, *args, **options)

        def visit_extract(self, extract: Any, **options: Any) -> Any:
            if _WORD.fullmatch(extract.field) is None:
                self.unkept = _TEXT
                return ""
            return super().visit_extract(extract, **options)

        def _check_text(self, text: str) -> None:
            if _HARMLESS.fullmatch(text) is None:
                self.unkept = _TEXT

        def visit_custom_op_binary(self, element: Any, operator: Any, **options: Any) -> Any:
            self._check_operator(operator)
            return super().visit_custom_op_binary(element, operator, **options)

        def visit_custom_op_unary_operator(
            self, element: Any, operator: Any, **options: Any
        ) -> Any:
            self._check_operator(operator)
            return super().visit_custom_op_unary_operator(element, operator, **options)

        def visit_custom_op_unary_modifier(
            self, element: Any, operator: Any, **options: Any
        ) -> Any:
            self._check_operator(operator)
            return super().visit_custom_op_unary_modifier(element, operator, **options)

        def _check_operator(self, operator: Any) -> None:
            # A precedence of one's own can put a tenant's condition on one side of an OR.
            if _OPERATOR.fullmatch(operator.opstring.strip()) is None or operator.precedence > 5:
                self.unkept = _TEXT

        def get_from_hint_text(self, table: Any, text: Any) -> Any:
            self._check_hint(text)
            return super().get_from_hint_text(table, text)

        def get_crud_hint_text(self, table: Any, text: Any) -> Any:
            self._check_hint(text)
            return super().get_crud_hint_text(table, text)

        def get_statement_hint_text(self, hint_texts: Any) -> Any:
            for text in hint_texts:
                self._check_hint(text)
            return super().get_statement_hint_text(hint_texts)

        def _check_hint(self, text: Any) -> None:
            if text is not None and _HINT.fullmatch(str(text)) is None:
                self.unkept = _TEXT

    return KeptCompiler


_TEXT = "it contains SQL text"


def _kept_froms(
    froms: Sequence[FromClause],
) -> tuple[list[FromClause], list[ColumnElement[bool]], set[FromClause]]:
    """The parts of a FROM, what WHERE must say of them, and the tables that this settles."""
    frame: set[FromClause] = set()
    conditions: list[ColumnElement[bool]] = []
    kept = []
    for each in froms:
        part, own = _kept_part(each, frame)
        kept.append(part)
        conditions += own
    return kept, conditions, frame


def _kept_part(part: Any, frame: set[FromClause]) -> tuple[Any, list[ColumnElement[bool]]]:
    if isinstance(part, Join):
        if part.full:
            return part, []  # its tables become filtered subqueries
        left, conditions = _kept_part(part.left, frame)
        right, of_right = _kept_part(part.right, frame)
        joined: Any = part._clone()
        joined.left, joined.right = left, right
        if part.isouter:
            # In WHERE it would drop the rows that found no partner.
            if of_right:
                joined.onclause = and_(part.onclause, *of_right)  # type: ignore[arg-type]
        else:
            conditions += of_right
        return joined, conditions
    table = _table_below(part)
    column = tenant_column(table) if isinstance(table, Table) else None
    if column is None:
        return part, []
    frame.add(part)
    return part, [_condition(part, column)]


def _kept_target(statement: Any) -> tuple[Any, set[FromClause]]:
    """An update or delete with the condition of its own table (or join of tables)."""
    frame: set[FromClause] = set()
    table, conditions = _kept_part(statement.table, frame)
    if conditions:
        statement = statement._clone()
        statement._where_criteria += tuple(conditions)
        if isinstance(table, Join):
            statement.table = table
    return statement, frame


def _table_below(part: Any) -> Any:
    while isinstance(part, FromClauseAlias):
        part = part.element
    return part


def _condition(part: Any, column: Any) -> ColumnElement[bool]:
    own = bindparam(
        "tenantry_key", callable_=partial(_own_key, column), type_=column.type, unique=True
    )
    condition: ColumnElement[bool] = part.c[column.key] == own
    return condition


def _own_key(column: Any) -> Any:
    return key_in(column, _key.get())


# Executing ------------------------------------------------------------------------------------


def _execution(base: Any, strict: bool) -> Any:
    class KeptExecution(base):  # type: ignore[misc]  # the base is known at run time only
        @classmethod
        def _init_compiled(
            cls,
            dialect: Any,
            connection: Any,
            dbapi_connection: Any,
            execution_options: Any,
            compiled: Any,
            parameters: Any,
            invoked_statement: Any,
            *args: Any,
            **options: Any,
        ) -> Any:
            tenant = _tenant_of(dbapi_connection)
            if strict and not execution_options.get(FILTERED) and not reflecting.get():
                if compiled.dialect is not connection.dialect:
                    raise _refused(tenant, "it was compiled elsewhere")
                if compiled.unkept is not None:
                    raise _refused(tenant, compiled.unkept)
            if isinstance(invoked_statement, (Insert, Update)):
                check_values(invoked_statement, parameters, tenant, strict=strict)
            token = _key.set(tenant.key)
            try:
                return super()._init_compiled(
                    dialect,
                    connection,
                    dbapi_connection,
                    execution_options,
                    compiled,
                    parameters,
                    invoked_statement,
                    *args,
                    **options,
                )
            finally:
                _key.reset(token)

        @classmethod
        def _init_statement(
            cls,
            dialect: Any,
            connection: Any,
            dbapi_connection: Any,
            execution_options: Any,
            *args: Any,
        ) -> Any:
            if strict and not execution_options.get(FILTERED) and not reflecting.get():
                raise _refused(_tenant_of(dbapi_connection), _TEXT)
            return super()._init_statement(
                dialect, connection, dbapi_connection, execution_options, *args
            )

        @classmethod
        def _init_ddl(cls, dialect: Any, connection: Any, dbapi_connection: Any, *args: Any) -> Any:
            if strict:
                raise _refused(
                    _tenant_of(dbapi_connection), "it changes tables that all tenants share"
                )
            return super()._init_ddl(dialect, connection, dbapi_connection, *args)

        def _exec_default_clause_element(self, column: Any, default: Any, type_: Any) -> Any:
            tenant = _tenant_of(self._dbapi_connection)
            compiled: Any = select(default.arg).compile(dialect=self.dialect)
            if strict and compiled.unkept is not None:
                raise _refused(tenant, compiled.unkept)
            token = _key.set(tenant.key)
            try:
                return super()._exec_default_clause_element(column, default, type_)
            finally:
                _key.reset(token)

    return KeptExecution


def _tenant_of(dbapi_connection: Any) -> Tenant:
    tenant: Tenant = dbapi_connection._connection_record.target.tenant
    return tenant


def _refused(tenant: Tenant, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"a statement of tenant {tenant.id!r} cannot be kept to its rows, and this server does "
        f"not keep rows apart: {why}; use select(), update() and the like of models or tables, or "
        f"execution_options({FILTERED}=True) if it filters by tenant itself",
        tenant_id=tenant.id,
    )


class BareConnection:
    """The driver's connection for SQLAlchemy's own use; everybody else is refused."""

    def __init__(self, proxied: Any, tenant_id: str | None) -> None:
        self._proxied = proxied
        self._tenant_id = tenant_id

    @property
    def dbapi_connection(self) -> BareConnection:
        """Itself; the dialect knows how to use it."""
        return self

    @property
    def _connection_record(self) -> Any:
        return self._proxied._connection_record

    @property
    def info(self) -> Any:
        """As SQLAlchemy's."""
        return self._proxied.info

    def commit(self) -> None:
        """As the driver's."""
        self._proxied.commit()

    def rollback(self) -> None:
        """As the driver's."""
        self._proxied.rollback()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise bare_refused(self._tenant_id)


def bare_refused(tenant_id: str | None) -> UnsupportedError:
    """For who asks for a bare connection where only statements of SQLAlchemy can be kept."""
    return UnsupportedError(
        "a bare connection cannot be kept to one tenant's rows on this server; use a session or "
        "a connection of SQLAlchemy",
        tenant_id=tenant_id,
    )
