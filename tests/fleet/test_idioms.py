"""What projects write in their revisions: as a batch it does what it does live, everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tenantry.fleet import Settings, migrate_tenants
from tenantry.fleet.bring import Work
from tenantry.fleet.fingerprint import shapes_of
from tests.fleet.conftest import MakeFleet
from tests.fleet.fleets import Fleet, scripts_of

EVERYWHERE = {
    "table": r"""
        import datetime
        import decimal
        users = op.create_table(
            "users",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("name", sa.String(50), nullable=False, server_default="x"),
            sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
            sa.Column("born", sa.Date),
            sa.Column("at", sa.DateTime),
            sa.Column("money", sa.Numeric(10, 2)),
            sa.Column("ratio", sa.Float),
            sa.Column("kind", sa.Enum("a", "b'c", name="user_kind")),
            sa.Column("note", sa.Text),
            sa.UniqueConstraint("name", name="uq_name"),
            sa.CheckConstraint("name <> 'a%b:c'", name="ck_name"),
        )
        op.bulk_insert(users, [dict(
            id=1, name="O'Neil", active=True, born=datetime.date(2020, 1, 2),
            at=datetime.datetime(2020, 1, 2, 3, 4, 5), money=decimal.Decimal("1.50"),
            ratio=0.1, kind="b'c", note='100% \\ "q" :x ;--/*',
        )])
        op.bulk_insert(users, [dict(id=2, name="zwei \u00e4 \U0001f600", active=False)])
    """,
    "text": r"""
        op.execute("UPDATE users SET note = 'time 12:30:45 100% a\\:b' WHERE id = 2")
    """,
    "parameters": r"""
        change = sa.text("UPDATE users SET note = :note WHERE id = :id")
        op.execute(change.bindparams(note="it's; -- \\ %s", id=1))
    """,
    "core": """
        columns = dict(id=sa.Integer, name=sa.String, active=sa.Boolean)
        users = sa.table("users", *(sa.column(*each) for each in columns.items()))
        op.execute(users.update().where(users.c.id == 2).values(name="zwei", active=True))
        several = [dict(id=3, name="c", active=True), dict(id=4, name="d", active=False)]
        op.execute(users.insert().values(several))
    """,
    "keys": """
        op.create_table(
            "orders",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE")),
            sa.Column("code", sa.String(10)),
        )
        op.create_index("ix_orders_code", "orders", ["code"], unique=True)
        op.create_index(op.f("ix_orders_user"), "orders", ["user_id"])
    """,
    "batch": """
        with op.batch_alter_table("users") as users:
            users.add_column(sa.Column("age", sa.Integer))
            users.alter_column("note", new_column_name="remark", existing_type=sa.Text)
            users.create_check_constraint("ck_age", "age > 0")
    """,
    "names": """
        op.rename_table("orders", "purchases")
        op.drop_index("ix_orders_code", table_name="purchases")
    """,
    "connection": """
        copy = "INSERT INTO purchases (id, user_id, code) SELECT id, id, name FROM users"
        op.get_bind().execute(sa.text(copy))
    """,
    "session": """
        from sqlalchemy.orm import Session
        session = Session(op.get_bind())
        session.execute(sa.text("UPDATE purchases SET code = 'live' WHERE id = 3"))
        session.commit()
    """,
    "comments": """
        op.execute("DELETE FROM purchases WHERE code LIKE 'zw%' -- it's done; really")
        op.execute("/* a; b */ DELETE FROM purchases WHERE id = 1 /* it's the end */")
    """,
    "json": """
        documents = op.create_table("documents", sa.Column("body", sa.JSON))
        op.bulk_insert(documents, [dict(body={"a": [1, None, "x:y"]})])
    """,
}
POSTGRESQL = {
    "types": """
        from sqlalchemy.dialects import postgresql
        op.create_table(
            "rich",
            sa.Column("id", sa.Uuid, server_default=sa.text("gen_random_uuid()"), primary_key=True),
            sa.Column("tags", postgresql.ARRAY(sa.String)),
            sa.Column("doc", postgresql.JSONB, server_default=sa.text("'{}'::jsonb")),
            sa.Column("number", sa.BigInteger, sa.Identity(start=5)),
            sa.Column("size", sa.Integer, sa.Computed("char_length(name) * 2", persisted=True)),
            sa.Column("name", sa.String),
            comment="rich; it's a table",
        )
        op.create_index("rich_doc", "rich", ["doc"], postgresql_using="gin")
        where = sa.text("name <> ''")
        op.create_index("rich_name", "rich", [sa.text("lower(name)")], postgresql_where=where)
    """,
    "function": """
        op.execute('''
            CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $body$
            BEGIN
              NEW.name := upper(NEW.name); -- 100%
              RETURN NEW;
            END; $body$
        ''')
        op.execute("CREATE TRIGGER shout BEFORE INSERT ON rich "
                   "FOR EACH ROW EXECUTE FUNCTION shout()")
    """,
    "several": """
        op.execute('''
            INSERT INTO rich (tags, doc, name) VALUES (ARRAY['a', 'b'], '{"k": "v:w"}', 'x');
            INSERT INTO rich (name) VALUES ('y')
        ''')
    """,
    "enum": """op.execute("ALTER TYPE user_kind ADD VALUE 'new'")""",
    "enum used": """op.execute("UPDATE users SET kind = 'new' WHERE id = 3")""",
    "columns": """
        whole = "round(ratio)::integer"
        op.alter_column("users", "ratio", type_=sa.Integer, postgresql_using=whole)
        op.alter_column("users", "name", type_=sa.Text, nullable=True, server_default=None)
    """,
    "views": """
        op.execute("CREATE VIEW names AS SELECT name FROM users")
        op.execute("CREATE MATERIALIZED VIEW many AS SELECT count(*) AS n FROM users")
        op.execute("ALTER TABLE users ENABLE ROW LEVEL SECURITY")
        op.execute("CREATE POLICY p ON users USING (name <> current_setting('a.b', true))")
    """,
    "concurrently": """
        with op.get_context().autocommit_block():
            op.create_index("users_born", "users", ["born"], postgresql_concurrently=True)
    """,
    "block": """
        op.execute("DO $$ BEGIN INSERT INTO users (id, name) VALUES (9, 'nine'); END $$")
    """,
    "constraints": """
        op.create_foreign_key(
            "of_user", "purchases", "users", ["user_id"], ["id"],
            deferrable=True, initially="DEFERRED", postgresql_not_valid=True,
        )
        op.execute("ALTER TABLE purchases VALIDATE CONSTRAINT of_user")
        op.execute("COMMENT ON COLUMN users.name IS 'it''s; a name'")
        op.drop_constraint("uq_name", "users", type_="unique")
        op.create_table_comment("users", "users of %s")
    """,
    "sequence": """
        op.execute("SELECT setval(pg_get_serial_sequence('users', 'id'), 100)")
        op.execute("INSERT INTO users (name) VALUES ('next')")
        op.execute("CREATE SEQUENCE numbers START 7")
        following = sa.text("nextval('numbers')")
        op.add_column("users", sa.Column("number", sa.Integer, server_default=following))
    """,
    "transaction": """
        op.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        op.execute("SET CONSTRAINTS ALL IMMEDIATE")
        op.execute("SET LOCAL statement_timeout = '5s'")
        op.execute("TRUNCATE purchases")
    """,
}
#: What asks for a connection; ``batch`` on SQLite alone, for it reflects there.
LIVE = {"connection", "session", "json"}
ROWS = {
    "users": "SELECT * FROM users ORDER BY id",
    "purchases": "SELECT * FROM purchases ORDER BY id",
    "documents": "SELECT * FROM documents",
}
ROWS_OF_POSTGRESQL = {
    **ROWS,
    "rich": "SELECT tags, doc, number, size, name FROM rich ORDER BY number",
    "many": "SELECT n FROM many",
}


def rows(fleet: Fleet, tenant_id: str) -> dict[str, list[tuple[Any, ...]]]:
    queries = ROWS_OF_POSTGRESQL if fleet.kind.startswith("postgresql") else ROWS
    return {table: fleet.rows(tenant_id, query) for table, query in queries.items()}


def test_what_projects_write_does_the_same_as_a_batch_and_live(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    fleet = make_fleet(4)
    on_postgresql = fleet.kind.startswith("postgresql")
    written = {**EVERYWHERE, **(POSTGRESQL if on_postgresql else {})}
    scripts = scripts_of(tmp_path, {name.replace(" ", "_"): each for name, each in written.items()})
    for tenant_id, online in zip(("t000", "t001"), (False, True), strict=True):
        migrate_tenants(
            fleet.tenancy,
            scripts,
            tenants=[fleet.tenant(tenant_id)],
            settings=Settings("heads", online=online),
        ).raise_if_failed()
    # One revision after the other, and together: the second file goes the way of the first.
    pair = [fleet.tenant("t002"), fleet.tenant("t003")]
    for step in Work(fleet.access, scripts, Settings("heads")).plan(fleet.place("t000"), ()).steps:
        settings = Settings(step.revision)
        migrate_tenants(
            fleet.tenancy, scripts, tenants=pair, settings=settings, workers=1
        ).raise_if_failed()
    batch, *others = map(fleet.place, fleet.ids)
    shapes = shapes_of(fleet.access, [batch, *others])
    for each in others:
        assert shapes[batch.key] == shapes[each.key]
        assert rows(fleet, "t000") == rows(fleet, each.name)
    steps = Work(fleet.access, scripts, Settings("heads")).plan(batch, ()).steps
    expected = LIVE | ({"batch"} if fleet.kind == "sqlite" else set())
    assert {step.revision for step in steps if step.segments is None} == expected
