"""``audit_rows`` finds each way around row-level security, and nothing on a sound database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tenantry import Isolation
from tenantry.isolation.policies import policy_statements, rows_metadata
from tenantry.isolation.row_audit import CHECKS, RowFinding, audit_rows
from tenantry.testing.address import ServerAddress
from tests.places import Base, Kind, Place, made


@pytest.fixture(scope="module")
def place(postgresql: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    kind = Kind("postgresql", "psycopg", isolation=Isolation.ROWS)
    with made(kind, tmp_path_factory.mktemp("audit"), postgresql) as place:
        place.create_shared_tables()
        yield place


def audited(place: Place, login: str | None = None, *, models: bool = True) -> list[RowFinding]:
    engine = place.admin_engine()
    try:
        with engine.connect() as connection:
            metadata = rows_metadata(Base.metadata) if models else None
            return audit_rows(connection, metadata, schema="public", login=login or place.login)
    finally:
        engine.dispose()


#: What somebody did -> the codes it is found by, and how it is undone.
FAULTS = [
    ('ALTER ROLE "{login}" SUPERUSER', "superuser", 'ALTER ROLE "{login}" NOSUPERUSER'),
    ('ALTER ROLE "{login}" BYPASSRLS', "bypass", 'ALTER ROLE "{login}" NOBYPASSRLS'),
    (
        'ALTER TABLE notes OWNER TO "{login}"',
        "owner",
        'ALTER TABLE notes OWNER TO "{admin}"; GRANT ALL ON notes TO "{admin}"',
    ),
    (
        'GRANT pg_write_server_files TO "{login}"',
        None,
        'REVOKE pg_write_server_files FROM "{login}"',
    ),
    (
        "ALTER TABLE notes DISABLE ROW LEVEL SECURITY",
        "not_enabled",
        "ALTER TABLE notes ENABLE ROW LEVEL SECURITY",
    ),
    (
        "ALTER TABLE notes NO FORCE ROW LEVEL SECURITY",
        "not_forced",
        "ALTER TABLE notes FORCE ROW LEVEL SECURITY",
    ),
    ("DROP POLICY tenantry_fence ON notes", "no_policy", ""),
    (
        "CREATE POLICY more ON notes USING (body = 'public')",
        "other_policy",
        "DROP POLICY IF EXISTS more ON notes",
    ),
    (
        "CREATE POLICY more ON notes USING (true)",
        "check_true",
        "DROP POLICY IF EXISTS more ON notes",
    ),
    (
        "CREATE POLICY more ON notes FOR INSERT WITH CHECK (true)",
        "check_true",
        "DROP POLICY IF EXISTS more ON notes",
    ),
    (
        (
            "ALTER POLICY tenantry_fence ON notes USING (tenant_id = NULLIF(current_setting("
            "'tenantry.tenant', true), '') OR current_setting('tenantry.tenant', true) = '')"
        ),
        "empty_passes",
        "",
    ),
    (
        (
            "ALTER POLICY tenantry_fence ON notes "
            "USING (current_setting('tenantry.tenant') = tenant_id)"
        ),
        "empty_passes",
        "",
    ),
    (
        'CREATE VIEW v AS SELECT * FROM notes; GRANT SELECT ON v TO "{login}"',
        "view",
        "DROP VIEW v",
    ),
    (
        'CREATE MATERIALIZED VIEW v AS SELECT * FROM notes; GRANT SELECT ON v TO "{login}"',
        "materialized_view",
        "DROP MATERIALIZED VIEW v",
    ),
    (
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "definer",
        "DROP FUNCTION f",
    ),
    (
        'CREATE TABLE part () INHERITS (notes); GRANT SELECT ON part TO "{login}"',
        "child",
        "DROP TABLE part",
    ),
    (
        "CREATE TABLE forgotten (id int); GRANT SELECT ON forgotten TO PUBLIC",
        "forgotten",
        "DROP TABLE forgotten",
    ),
    (
        'CREATE TABLE forgotten (id int); GRANT SELECT (id) ON forgotten TO "{login}"',
        "forgotten",
        "DROP TABLE forgotten",
    ),
    ("CREATE UNIQUE INDEX ix_body ON notes (body)", "key", "DROP INDEX ix_body"),
    (
        (
            "CREATE UNIQUE INDEX ix_id ON authors (id); ALTER TABLE notes ADD CONSTRAINT fk "
            "FOREIGN KEY (author_id) REFERENCES authors (id)"
        ),
        "foreign_key",
        "ALTER TABLE notes DROP CONSTRAINT fk; DROP INDEX ix_id",
    ),
    ('GRANT TRUNCATE ON notes TO "{login}"', "rights", 'REVOKE TRUNCATE ON notes FROM "{login}"'),
    ("GRANT REFERENCES ON notes TO PUBLIC", "rights", "REVOKE REFERENCES ON notes FROM PUBLIC"),
    (
        'GRANT UPDATE ON SEQUENCE notes_id_seq TO "{login}"',
        "sequence",
        'REVOKE UPDATE ON SEQUENCE notes_id_seq FROM "{login}"',
    ),
    (
        'GRANT CREATE ON SCHEMA public TO "{login}"',
        "create",
        'REVOKE CREATE ON SCHEMA public FROM "{login}"',
    ),
    ("ALTER TABLE notes RENAME TO old", "missing_table", "ALTER TABLE old RENAME TO notes"),
]


def run(place: Place, script: str) -> None:
    assert place.address is not None
    words = {"{login}": place.login, "{admin}": place.address.user}
    for statement in filter(None, script.split("; ")):
        for word, name in words.items():
            statement = statement.replace(word, name)
        place.execute(statement)


def test_a_sound_database_gives_no_alarm(place: Place) -> None:
    assert audited(place) == []
    assert audited(place, models=False) == []


#: What no single statement repairs.
IN_WORDS = {"no_policy", "empty_passes", "key", "foreign_key", "missing_table"}
#: What only the models know of.
UNSEEN = {"forgotten", "missing_table"}


@pytest.mark.parametrize(("fault", "code", "undo"), FAULTS)
def test_each_fault_is_found_and_its_repair_repairs(
    place: Place, fault: str, code: str | None, undo: str
) -> None:
    run(place, fault)
    try:
        found = audited(place)
        codes = {finding.code for finding in found}
        assert codes >= ({code} if code else set())
        assert {each.code for each in audited(place, models=False)} >= codes - UNSEEN
        for repair in dict.fromkeys(each.repair for each in found if each.code not in IN_WORDS):
            run(place, repair)
        assert {each.code for each in audited(place)} == codes & IN_WORDS
    finally:
        run(place, undo)
        mend(place)
    assert audited(place) == []


def test_every_check_is_tried(place: Place) -> None:
    assert {check.code for check in CHECKS} - {"no_login"} <= {code for _, code, _ in FAULTS}
    assert [each.code for each in audited(place, "nobody_has_this_name")] == ["no_login"]


def test_a_role_that_leads_around_is_left(place: Place) -> None:
    """The repair names the login's own membership, wherever the right itself stands."""
    between, far = place.role("between"), place.role("far")
    run(place, f'ALTER ROLE "{far}" BYPASSRLS; GRANT "{far}" TO "{between}"')
    run(place, f'GRANT "{between}" TO "{{login}}"')
    (finding,) = audited(place)
    assert finding.code == "bypass"
    assert finding.repair == f"REVOKE {between} FROM {place.login}"
    run(place, finding.repair)
    assert audited(place) == []


def test_a_schema_without_any_table_of_tenants_is_no_sound_one(place: Place) -> None:
    engine = place.admin_engine()
    try:
        with engine.connect() as connection:
            found = audit_rows(connection, None, schema="pg_temp", login=place.login)
    finally:
        engine.dispose()
    assert [each.code for each in found] == ["missing_table"]


def mend(place: Place) -> None:
    """Run the policies again."""
    engine = place.admin_engine()
    with engine.begin() as connection:
        metadata = rows_metadata(Base.metadata)
        for statement in policy_statements(metadata, schema="public", login=place.login):
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_the_policies_close_what_they_can(place: Place) -> None:
    """Views, forgotten tables and the like are repaired by running the policies again."""
    run(
        place,
        'CREATE VIEW v AS SELECT * FROM notes; GRANT SELECT ON v TO "{login}"; '
        'CREATE TABLE forgotten (id int); GRANT ALL ON forgotten TO "{login}"; '
        "GRANT TRUNCATE ON notes TO PUBLIC; ALTER TABLE notes NO FORCE ROW LEVEL SECURITY",
    )
    assert {each.code for each in audited(place)} == {"view", "forgotten", "rights", "not_forced"}
    mend(place)
    assert audited(place) == []
    run(place, "DROP VIEW v; DROP TABLE forgotten")
