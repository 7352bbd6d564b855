"""Does row-level security hold? Questions to PostgreSQL's catalogue, and what an answer means.

The questions are data: each gives a row for each object that is not as it should be, and none on
a database that :func:`~tenantry.isolation.policies.policy_statements` set up.

Sources: PostgreSQL manual, *Row Security Policies*, *Rules and Privileges*, *CREATE VIEW*.
"""

# ruff: noqa: S608  # the questions are put together from constants of this module

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, MetaData, Table, text

from .policies import FENCE, POLICY, tenant_tables
from .tables import is_shared, tenant_column

__all__ = ["CHECKS", "MINIMUM_MINORS", "Check", "RowFinding", "audit_rows"]

#: Below these a policy can be evaded. Source: the advisories at postgresql.org/support/security.
#: CVE-2024-10976 (subqueries below a policy) and CVE-2024-10978 (SET ROLE) were closed in 17.1,
#: 16.5, 15.9, 14.14 and 13.17; CVE-2025-8713 (rows seen through the planner's statistics) in 17.6,
#: 16.10, 15.14, 14.19 and 13.22, and before 18.0. Those of February and May 2026 touch no policy.
MINIMUM_MINORS: Mapping[int, int] = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}


@dataclass(frozen=True)
class Check:
    """A question; its rows are names of objects, each with the statement that repairs it, if any.

    *message* and *repair* (what to do where no one statement repairs) take ``{object}``.
    """

    code: str
    message: str
    question: str
    repair: str = "run `tenantry rows policies --yes`"


@dataclass(frozen=True)
class RowFinding:
    """A way around row-level security that is open on *object*.

    *repair* is the statement that closes it, to be run by the tables' owner, or what to do.
    """

    code: str
    object: str
    message: str
    repair: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "code": self.code,
            "object": self.object,
            "message": self.message,
            "repair": self.repair,
        }


# Relations in the tables' schemas; `mine` are the tenants' tables, `known` those and the shared.
_RELATIONS = """\
WITH here AS (
  SELECT c.*, n.nspname || '.' || c.relname AS name,
    format('%I.%I', n.nspname, c.relname) AS quoted FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY (:schemas)
), mine AS (SELECT * FROM here WHERE name = ANY (:mine)),
me AS (SELECT * FROM pg_roles WHERE rolname = :login)
"""
_READS = """(SELECT bool_or(has_any_column_privilege(me.oid, c.oid, p)) FROM me,
  unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) p)"""
_NOT_ITS = "'PUBLIC, ' || quote_ident(CAST(:login AS text))"
_REVOKE_ALL = f"'REVOKE ALL ON TABLE ' || c.quoted || ' FROM ' || {_NOT_ITS}"
# The memberships of the login that lead to a role with {right}.
_LEAVE = """(SELECT 'REVOKE ' || string_agg(quote_ident(g.rolname), ', ') || ' FROM '
  || quote_ident(me.rolname) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
  WHERE m.member = me.oid AND EXISTS (SELECT FROM pg_roles r WHERE r.{right}
  AND pg_has_role(g.oid, r.oid, 'MEMBER')))"""
_OWN = f"p.polname IN ('{POLICY}', '{FENCE}')"
_DROP_POLICY = (
    f"CASE WHEN NOT {_OWN} THEN format('DROP POLICY %I ON %s', p.polname, mine.quoted) END"
)
_COLUMNS = """(SELECT a.attname::text FROM pg_attribute a
  WHERE a.attrelid = {table} AND a.attnum = ANY ({keys}))"""

# A policy's condition, as the server writes it out.
_CONDITION = (
    r"^\(+[^=]+ = \(*NULLIF\(current_setting\('tenantry\.tenant'\:\:text, true\), ''\:\:text\)"
    r"\)*(\:\:[a-z0-9() ]+)?\)*$"
)

#: Every known way that the catalogue can show.
CHECKS: tuple[Check, ...] = (
    Check(
        "no_login",
        "the login {object} does not exist",
        "SELECT CAST(:login AS text) WHERE NOT EXISTS (SELECT FROM me)",
        "give the application's login with --login",
    ),
    Check(
        "superuser",
        "login {object} is a superuser, or may become one by SET ROLE",
        "SELECT rolname, CASE WHEN rolsuper THEN format('ALTER ROLE %I NOSUPERUSER', rolname) "
        f"ELSE {_LEAVE.format(right='rolsuper')} END "
        "FROM me WHERE EXISTS (SELECT FROM pg_roles r WHERE r.rolsuper "
        "AND pg_has_role(me.oid, r.oid, 'MEMBER'))",
        "use a login without such rights",
    ),
    Check(
        "bypass",
        "login {object} has BYPASSRLS, or may take a role that has it",
        "SELECT rolname, CASE WHEN rolbypassrls THEN format('ALTER ROLE %I NOBYPASSRLS', rolname) "
        f"ELSE {_LEAVE.format(right='rolbypassrls')} END "
        "FROM me WHERE EXISTS (SELECT FROM pg_roles r WHERE r.rolbypassrls "
        "AND NOT r.rolsuper AND pg_has_role(me.oid, r.oid, 'MEMBER'))",
        "use a login without such rights",
    ),
    Check(
        "owner",
        "the application's login owns table {object}, itself or by a role it may take",
        "SELECT mine.name, 'ALTER TABLE ' || mine.quoted || ' OWNER TO CURRENT_USER; GRANT SELECT, "
        "INSERT, UPDATE, DELETE ON TABLE ' || mine.quoted || ' TO ' || quote_ident(me.rolname) "
        "FROM mine, me WHERE NOT me.rolsuper "
        "AND pg_has_role(me.oid, mine.relowner, 'MEMBER')",
        "give the table to another role",
    ),
    Check(
        "missing_table",
        "table {object} of the models is not there",
        "SELECT m FROM unnest(CAST(:mine AS text[])) m WHERE m NOT IN (SELECT name FROM here)",
        "create the tables of rows_metadata(metadata)",
    ),
    Check(
        "not_enabled",
        "row-level security is not enabled on table {object}",
        "SELECT name, 'ALTER TABLE ' || quoted || ' ENABLE ROW LEVEL SECURITY' FROM mine "
        "WHERE NOT relrowsecurity",
    ),
    Check(
        "not_forced",
        "row-level security is not forced on table {object}: its owner sees every row",
        "SELECT name, 'ALTER TABLE ' || quoted || ' FORCE ROW LEVEL SECURITY' FROM mine "
        "WHERE relrowsecurity AND NOT relforcerowsecurity",
    ),
    Check(
        "no_policy",
        "table {object} lacks its policy, or the restrictive one",
        "SELECT name FROM mine WHERE 2 > (SELECT count(*) FROM pg_policy p "
        "WHERE p.polrelid = mine.oid AND p.polcmd = '*' AND (p.polname, p.polpermissive) IN "
        f"(('{POLICY}', true), ('{FENCE}', false)) AND p.polroles = ARRAY[0::oid])",
    ),
    Check(
        "other_policy",
        "a policy that tenantry did not write stands on {object}",
        f"SELECT mine.name || ': ' || p.polname, {_DROP_POLICY} "
        "FROM mine JOIN pg_policy p ON p.polrelid = mine.oid "
        f"WHERE p.polpermissive AND p.polname <> '{POLICY}'",
    ),
    Check(
        "check_true",
        "a policy lets every row be written: {object}",
        f"SELECT mine.name || ': ' || p.polname, {_DROP_POLICY} "
        "FROM mine JOIN pg_policy p ON p.polrelid = mine.oid WHERE p.polpermissive AND "
        "'true' IN (pg_get_expr(p.polwithcheck, p.polrelid), pg_get_expr(p.polqual, p.polrelid))",
    ),
    Check(
        "empty_passes",
        "a policy does not refuse a session without tenant: {object}",
        "SELECT mine.name || ': ' || p.polname FROM mine JOIN pg_policy p ON p.polrelid = mine.oid "
        f"WHERE {_OWN} AND (p.polwithcheck IS NULL OR EXISTS ("
        "SELECT FROM unnest(ARRAY[pg_get_expr(p.polqual, p.polrelid), "
        f"pg_get_expr(p.polwithcheck, p.polrelid)]) e WHERE e !~ $re${_CONDITION}$re$))",
    ),
    Check(
        "view",
        "view {object} reads as its owner and not as who asks",
        "SELECT c.name, CASE WHEN current_setting('server_version_num')::int >= 150000 "
        "THEN 'ALTER VIEW ' || c.quoted || ' SET (security_invoker = true)' "
        f"ELSE {_REVOKE_ALL} END FROM here c WHERE c.relkind = 'v' "
        "AND NOT coalesce(c.reloptions::text ~ 'security_invoker=(true|on|1|yes)', false) "
        f"AND {_READS}",
    ),
    Check(
        "materialized_view",
        "materialized view {object} holds rows of all tenants",
        f"SELECT c.name, {_REVOKE_ALL} FROM here c WHERE c.relkind = 'm' AND {_READS}",
    ),
    Check(
        "definer",
        "function {object} runs with its owner's rights",
        "SELECT p.oid::regprocedure::text, format('REVOKE ALL ON ROUTINE %I.%I(%s) FROM ', "
        f"n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) || {_NOT_ITS} "
        "FROM pg_proc p JOIN pg_namespace n "
        "ON n.oid = p.pronamespace, me WHERE n.nspname = ANY (:schemas) AND p.prosecdef "
        "AND has_function_privilege(me.oid, p.oid, 'EXECUTE') "
        "AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')",
    ),
    Check(
        "child",
        "{object} is a part of a tenants' table that the login may address directly",
        f"SELECT c.name, {_REVOKE_ALL} FROM here c JOIN pg_inherits i ON i.inhrelid = c.oid "
        f"WHERE c.name <> ALL (:known) AND {_READS}",
    ),
    Check(
        "forgotten",
        "the login may use table {object}, which no model knows",
        f"SELECT c.name, {_REVOKE_ALL} FROM here c "
        "WHERE c.relkind IN ('r', 'p', 'f') AND c.name <> ALL (:known) "
        f"AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) AND {_READS}",
    ),
    Check(
        "key",
        "a unique key without the tenant column tells of other tenants' rows: {object}",
        "SELECT mine.name || ': ' || i.indexrelid::regclass FROM mine JOIN pg_index i "
        "ON i.indrelid = mine.oid WHERE i.indisunique "
        "AND NOT CAST(:columns AS jsonb) ->> mine.name "
        f"= ANY ({_COLUMNS.format(table='mine.oid', keys='i.indkey')})",
        "put the tenant column into it, as rows_metadata(metadata) does",
    ),
    Check(
        "foreign_key",
        "a foreign key without the tenant column may point at another tenant's row: {object}",
        "SELECT mine.name || ': ' || k.conname FROM mine JOIN pg_constraint k "
        "ON k.conrelid = mine.oid JOIN mine other ON other.oid = k.confrelid WHERE k.contype = 'f' "
        "AND NOT CAST(:columns AS jsonb) ->> mine.name "
        f"= ANY ({_COLUMNS.format(table='mine.oid', keys='k.conkey')})",
        "put the tenant column into it, as rows_metadata(metadata) does",
    ),
    Check(
        "rights",
        "the login may do more with a table than read and write rows: {object}",
        "SELECT c.name || ': ' || p, "
        f"format('REVOKE %s ON TABLE %s FROM ', p, c.quoted) || {_NOT_ITS} FROM here c, me, "
        "unnest(ARRAY['TRUNCATE', 'REFERENCES', 'TRIGGER']) p WHERE c.name = ANY (:known) "
        "AND NOT pg_has_role(me.oid, c.relowner, 'MEMBER') "
        "AND has_table_privilege(me.oid, c.oid, p)",
    ),
    Check(
        "sequence",
        "the login may read or set back sequence {object}",
        "SELECT c.name, 'REVOKE SELECT, UPDATE ON SEQUENCE ' || c.quoted || ' FROM ' || "
        f"{_NOT_ITS} "
        "FROM here c, me WHERE c.relkind = 'S' "
        "AND NOT pg_has_role(me.oid, c.relowner, 'MEMBER') "
        "AND (has_sequence_privilege(me.oid, c.oid, 'SELECT') "
        "OR has_sequence_privilege(me.oid, c.oid, 'UPDATE'))",
    ),
    Check(
        "create",
        "the login may create objects in schema {object}, before or beside the tables",
        f"SELECT n.nspname, format('REVOKE CREATE ON SCHEMA %I FROM ', n.nspname) || {_NOT_ITS} "
        "FROM pg_namespace n, me WHERE n.nspname = ANY (:schemas) "
        "AND NOT pg_has_role(me.oid, n.nspowner, 'MEMBER') "
        "AND has_schema_privilege(me.oid, n.oid, 'CREATE')",
    ),
)


@dataclass(frozen=True)
class _Known:
    """What stands there: the tenants' tables with their tenant column, and the shared ones."""

    schemas: list[str]
    tenants: dict[str, str]
    shared: list[str]


def audit_rows(
    connection: Connection, metadata: MetaData | None, *, schema: str, login: str
) -> list[RowFinding]:
    """Every open way around row-level security for *login*; none on a sound database.

    *metadata* is that of :func:`~tenantry.isolation.policies.rows_metadata`. ``None``: the models
    are not at hand, so a table with our policy or a column ``tenant_id`` is taken for the
    tenants', and any other for shared; forgotten tables are not found then. The connection may be
    the owner's or the login's own: the catalogue answers both.
    """
    known = _by_models(metadata, schema) if metadata else _by_catalogue(connection, schema)
    given = {
        "schemas": known.schemas,
        "mine": list(known.tenants),
        "known": [*known.tenants, *known.shared],
        "columns": json.dumps(known.tenants),
        "login": login,
    }
    findings = [_old(connection)] if _is_old(connection) else []
    if not known.tenants:
        findings.append(
            RowFinding(
                "missing_table",
                schema,
                f"schema {schema} holds no table of tenants",
                "create the tables of rows_metadata(metadata)",
            )
        )
    for check in CHECKS:
        question = text(_RELATIONS + check.question)
        used = {name: given[name] for name in question._bindparams}
        for found, *statement in connection.execute(question, used):
            repair = next(filter(None, statement), None) or check.repair.format(object=found)
            message = check.message.format(object=found)
            findings.append(RowFinding(check.code, found, message, repair))
    return findings


def _by_models(metadata: MetaData, schema: str) -> _Known:
    ours = tenant_tables(metadata)
    columns = ((_name(table, schema), tenant_column(table)) for table in ours)
    return _Known(
        sorted({schema, *(table.schema for table in ours if table.schema)}),
        {name: column.name if column is not None else "" for name, column in columns},
        [_name(table, schema) for table in metadata.sorted_tables if is_shared(table)],
    )


def _name(table: Table, schema: str) -> str:
    return f"{table.schema or schema}.{table.name}"


# The tenant column of a table with our policy is the one that the policy depends on.
_CATALOGUE = f"""\
SELECT n.nspname || '.' || c.relname, coalesce(
  (SELECT min(a.attname::text) FROM pg_policy p JOIN pg_depend d ON d.objid = p.oid
   AND d.classid = 'pg_policy'::regclass AND d.refclassid = 'pg_class'::regclass
   AND d.refobjid = c.oid JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
   WHERE p.polrelid = c.oid AND p.polname = '{POLICY}' AND a.attnum > 0),
  (SELECT a.attname::text FROM pg_attribute a
   WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relkind IN ('r', 'p', 'f')
AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1"""


def _by_catalogue(connection: Connection, schema: str) -> _Known:
    found = connection.execute(text(_CATALOGUE), {"schema": schema}).all()
    return _Known(
        [schema],
        {name: column for name, column in found if column is not None},
        [name for name, column in found if column is None],
    )


def _version(connection: Connection) -> tuple[int, int]:
    number = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    return number // 10000, number % 10000


def _is_old(connection: Connection) -> bool:
    major, minor = _version(connection)
    return minor < MINIMUM_MINORS.get(major, 0)


def _old(connection: Connection) -> RowFinding:
    major, minor = _version(connection)
    return RowFinding(
        "server",
        f"{major}.{minor}",
        f"PostgreSQL {major}.{minor} has known ways around row-level security",
        f"update to {major}.{MINIMUM_MINORS[major]} or later",
    )
