"""Drift is found, named and repaired; a new place is made at once and is just like the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenantry.fleet import Access, migrate_tenants
from tenantry.fleet.blueprint import Blueprints
from tenantry.fleet.fingerprint import shape_of
from tenantry.fleet.statements import exec_all
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import migrated, scripts_of

#: Kind -> what somebody did by hand, and a word of what is to be said of it.
DRIFT = {
    "postgresql": [
        ("DROP INDEX orders_currency", "index orders_currency of orders is missing"),
        ("ALTER TABLE coupons ALTER COLUMN name TYPE varchar(200)", "column name of coupons"),
        ("ALTER TABLE coupons ALTER COLUMN amount DROP DEFAULT", "column amount of coupons"),
        ("DROP VIEW open_orders", "view open_orders is missing"),
        ("ALTER TABLE reviews DROP CONSTRAINT reviews_product_fk", "reviews_product_fk"),
        ("ALTER TABLE products ENABLE ROW LEVEL SECURITY", "table products"),
        ("DROP TABLE audit_entries", "table audit_entries is missing"),
    ],
    "mariadb": [
        ("DROP INDEX orders_currency ON orders", "index orders_currency of orders is missing"),
        ("ALTER TABLE coupons MODIFY name varchar(200) NOT NULL", "column name of coupons"),
        ("DROP VIEW open_orders", "view open_orders is missing"),
        ("ALTER TABLE reviews DROP FOREIGN KEY reviews_product_fk", "reviews_product_fk"),
        ("DROP TABLE audit_entries", "table audit_entries is missing"),
    ],
    "sqlite": [
        ("DROP INDEX orders_currency", "index orders_currency of orders is missing"),
        ("DROP VIEW open_orders", "view open_orders is missing"),
    ],
}


def test_drift_is_found_named_and_repaired(make_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = make_fleet(1)
    scripts = migrated(fleet, tmp_path)
    with Access(fleet.tenancy.servers) as access:
        blueprints = Blueprints(access, scripts)
        place = access.place(fleet.tenant("t000"))
        assert blueprints.drift(place) == []
        done = DRIFT[fleet.kind.partition("-")[0]]
        with access.enter(place) as connection:
            exec_all(connection, *(statement for statement, _ in done))
            connection.commit()
        found = blueprints.drift(place)
        said = " / ".join(each.words for each in found)
        for _, words in done:
            assert words in said
        with access.enter(place) as connection:
            exec_all(connection, *(line for each in found for line in each.repair))
            connection.commit()
        assert blueprints.drift(place) == []


#: Kind -> what somebody made by hand, and how it is called.
EXTRA: dict[str, list[tuple[str, str | None]]] = {
    "postgresql": [
        ("CREATE VIEW all_orders AS SELECT id FROM orders", "view all_orders"),
        ("CREATE MATERIALIZED VIEW a_sum AS SELECT 1 AS n", "materialized view a_sum"),
        ("CREATE INDEX sum_n ON a_sum (n)", None),  # goes with it
        ("CREATE SEQUENCE counted", "sequence counted"),
        ("CREATE TYPE mood AS ENUM ('good', 'bad')", "type mood"),
        ("CREATE DOMAIN short AS varchar(9)", "type short"),
        ("CREATE FUNCTION one() RETURNS integer LANGUAGE sql AS 'SELECT 1'", "function one()"),
        ("CREATE TABLE tried (id serial PRIMARY KEY)", "table tried"),
        ("GRANT SELECT ON open_orders TO PUBLIC", "grant PUBLIC SELECT of open_orders"),
        ("CREATE INDEX tried_too ON orders (id)", "index tried_too of orders"),
        ("CREATE AGGREGATE total (integer) (SFUNC = int4pl, STYPE = integer)", "aggregate total"),
    ],
    "mariadb": [
        ("CREATE VIEW all_orders AS SELECT id FROM orders", "view all_orders"),
        ("CREATE FUNCTION one(n INTEGER) RETURNS INTEGER RETURN n", "function one"),
        ("CREATE PROCEDURE two(n INTEGER) SELECT n", "procedure two"),
        ("CREATE TABLE tried (id INTEGER PRIMARY KEY)", "table tried"),
        ("CREATE TRIGGER t BEFORE INSERT ON tried FOR EACH ROW SET NEW.id = 7", None),
        ("CREATE SEQUENCE counted", "sequence counted"),
    ],
    "sqlite": [
        ("CREATE VIEW all_orders AS SELECT id FROM orders", "view all_orders"),
        ("CREATE TABLE tried (id INTEGER PRIMARY KEY)", "table tried"),
        ("CREATE INDEX tried_too ON orders (id)", "index tried_too"),
        ("CREATE TRIGGER t AFTER INSERT ON orders BEGIN SELECT 1; END", "trigger t"),
    ],
}


def test_what_should_not_be_there_is_named(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """Each by itself, but what goes with it; and the statements that are said drop it all."""
    fleet = make_fleet(1)
    scripts = migrated(fleet, tmp_path)
    made = EXTRA[fleet.kind.partition("-")[0]]
    with Access(fleet.tenancy.servers) as access:
        blueprints = Blueprints(access, scripts)
        place = access.place(fleet.tenant("t000"))
        assert blueprints.drift(place) == []
        with access.enter(place) as connection:
            exec_all(connection, *(statement for statement, _ in made))
            connection.commit()
        found = blueprints.drift(place)
        assert {each.what for each in found} == {"extra"}
        said = [each.words for each in found]
        for _, words in made:
            assert words is None or sum(words in line for line in said) == 1, (words, said)
        assert len(found) == sum(words is not None for _, words in made), said
        by_hand = [each.words for each in found if not each.repair]
        assert all(words.startswith(("aggregate", "sequence")) for words in by_hand)
        with access.enter(place) as connection:
            exec_all(connection, *(line for each in found for line in each.repair))
            connection.commit()
        assert [each.words for each in blueprints.drift(place)] == by_hand


@pytest.mark.parametrize("kind", ["postgresql-schema"])
def test_a_missing_policy_is_found_and_repaired(make_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = make_fleet(1)
    revision = (
        "op.create_table('r', sa.Column('tenant', sa.String(20)))\n"
        "op.execute('ALTER TABLE r ENABLE ROW LEVEL SECURITY')\n"
        "op.execute('ALTER TABLE r FORCE ROW LEVEL SECURITY')\n"
        "op.execute(\"CREATE POLICY mine ON r USING (tenant = current_setting('x.y', true))\")\n"
        "op.execute('GRANT SELECT ON r TO PUBLIC')\n"
        "op.execute(\"COMMENT ON TABLE r IS 'it''s here'\")\n"
        "op.execute(\"CREATE TYPE mood AS ENUM ('good', 'bad')\")\n"
        "op.execute('CREATE FUNCTION one() RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$')"
    )
    scripts = migrated(fleet, tmp_path, {"p1": revision})
    with Access(fleet.tenancy.servers) as access:
        blueprints = Blueprints(access, scripts)
        place = access.place(fleet.tenant("t000"))
        assert blueprints.drift(place) == []
        fleet.execute(
            "t000",
            "DROP POLICY mine ON r",
            "ALTER TABLE r NO FORCE ROW LEVEL SECURITY",
            "REVOKE SELECT ON r FROM PUBLIC",
            "COMMENT ON TABLE r IS NULL",
            "DROP TYPE mood",
            "DROP FUNCTION one()",
        )
        found = blueprints.drift(place)
        assert len(found) == 6, [each.words for each in found]
        with access.enter(place) as connection:
            exec_all(connection, *(line for each in found for line in each.repair))
            connection.commit()
        assert blueprints.drift(place) == []


def test_a_place_made_from_the_blueprint_is_like_a_migrated_one(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    fleet = make_fleet(2, make=False)
    fleet.make_places(["t000"])
    scripts = scripts_of(tmp_path)
    migrated, made = (fleet.tenant(each) for each in fleet.ids)
    migrate_tenants(fleet.tenancy, scripts, tenants=[migrated]).raise_if_failed()
    with Access(fleet.tenancy.servers) as access:
        Blueprints(access, scripts).make(access.place(made))
        one, other = (shape_of(access, access.place(each)) for each in (migrated, made))
        assert one == other
    for table in ("categories", "alembic_version"):
        query = f"SELECT * FROM {table} ORDER BY 1"
        assert fleet.rows("t000", query) == fleet.rows("t001", query)
    again = migrate_tenants(fleet.tenancy, scripts)
    assert [each.status for each in again.outcomes] == ["unchanged", "unchanged"]
