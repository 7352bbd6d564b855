"""Tables of many shapes, shared by two tenants with the same primary keys; models unchanged."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    String,
    Table,
    UniqueConstraint,
    Uuid,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import INT4RANGE, ExcludeConstraint
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from tenantry import Isolation, Placement, Tenancy, Tenant
from tenantry.directory import MappingDirectory
from tenantry.errors import ConfigurationError, CrossTenantError
from tenantry.isolation.policies import (
    adoption_statements,
    policy_statements,
    rows_metadata,
)
from tenantry.isolation.row_audit import audit_rows
from tenantry.orm import TenantRows, mark_shared, tenant_key
from tenantry.testing.address import ServerAddress
from tests.places import Door, Kind, Place, made

KIND = Kind("postgresql", "psycopg", isolation=Isolation.ROWS)
NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Shapes(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)


employee_skills = Table(
    "employee_skills",
    Shapes.metadata,
    Column("employee_id", ForeignKey("employees.id", ondelete="CASCADE"), primary_key=True),
    Column("skill_id", ForeignKey("skills.id"), primary_key=True),
)


class Country(Shapes):
    __tablename__ = "countries"
    __table_args__ = {"info": {"tenantry": "shared"}}
    code: Mapped[str] = mapped_column(String(2), primary_key=True)


class Skill(TenantRows, Shapes):
    __tablename__ = "skills"
    __table_args__ = (
        UniqueConstraint("name", name="one_skill"),
        Index("ix_lower", func.lower(text("name")), unique=True),
        Index("ix_open", "level", unique=True, postgresql_where=text("level > 5")),
        {"schema": None},
    )
    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(40))
    level: Mapped[int] = mapped_column(default=0, server_default="0", index=True)


class Employee(TenantRows, Shapes):
    __tablename__ = "employees"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    email: Mapped[str] = mapped_column(String(40), unique=True)
    number: Mapped[int] = mapped_column(Sequence("employee_numbers", metadata=Shapes.metadata))
    boss_id: Mapped[int | None] = mapped_column(ForeignKey("employees.id", ondelete="SET NULL"))
    country: Mapped[str | None] = mapped_column(ForeignKey("countries.code"))
    boss: Mapped[Employee | None] = relationship(
        remote_side="Employee.id", back_populates="reports"
    )
    reports: Mapped[list[Employee]] = relationship(back_populates="boss")
    skills: Mapped[list[Skill]] = relationship(secondary=employee_skills)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}


class Engineer(Employee):
    __tablename__ = "engineers"
    id: Mapped[int] = mapped_column(ForeignKey("employees.id"), primary_key=True)
    language: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_identity": "engineer"}


class Site(TenantRows, Shapes):
    __tablename__ = "sites"
    __table_args__ = {"schema": "places"}
    region: Mapped[str] = mapped_column(String(10), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Room(TenantRows, Shapes):
    __tablename__ = "rooms"
    __table_args__ = (
        ForeignKeyConstraint(
            ["region", "site"],
            ["places.sites.region", "places.sites.number"],
            ondelete="CASCADE",
            onupdate="CASCADE",
            deferrable=True,
            initially="DEFERRED",
        ),
    )
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)
    region: Mapped[str | None] = mapped_column(String(10))
    site: Mapped[int | None]


def create(place: Place, metadata: MetaData, adopt: str | None = None) -> Engine:
    place.execute("CREATE SCHEMA IF NOT EXISTS places")
    engine = place.admin_engine()
    with engine.begin() as connection:
        shared = rows_metadata(metadata)
        if adopt is None:
            shared.create_all(connection)
            statements = policy_statements(shared, schema="public", login=place.login)
        else:
            statements = adoption_statements(
                metadata, schema="public", login=place.login, tenant_key=adopt
            )
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))
        assert audit_rows(connection, shared, schema="public", login=place.login) == []
    return engine


@pytest.fixture
def place(postgresql: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with made(KIND, tmp_path_factory.mktemp("shapes"), postgresql) as place:
        yield place


def hire(session: Session) -> None:
    """The same keys for every tenant."""
    sql = Skill(name="SQL", level=7)
    boss = Employee(id=1, email="boss@example.com", skills=[sql])
    session.add_all([sql, boss])
    session.flush()
    session.add_all(
        [
            Engineer(id=2, email="e@example.com", language="Python", boss=boss, skills=[sql]),
            Site(region="eu", number=1),
            Room(id=uuid.UUID(int=1), region="eu", site=1),
        ]
    )


def look(session: Session) -> tuple[object, ...]:
    engineer = session.scalars(select(Engineer)).one()
    assert engineer.boss is not None
    return (
        engineer.language,
        engineer.boss.email,
        [skill.name for skill in engineer.skills],
        [each.email for each in engineer.boss.reports],
        session.scalar(select(func.count()).select_from(Room)),
        session.scalar(select(func.count()).select_from(employee_skills)),
    )


SEEN = ("Python", "boss@example.com", ["SQL"], ["e@example.com"], 1, 2)


def use_shapes(place: Place, tenancy: Tenancy) -> None:
    door = Door(tenancy, False)
    for tenant_id in ("uk", "aus"):
        door.run(tenant_id, hire)
    for tenant_id in ("uk", "aus"):
        assert door.run(tenant_id, look) == SEEN
    # A row of the own tenant twice is still a duplicate.
    for statement in (
        "INSERT INTO skills (name) VALUES ('SQL')",
        "INSERT INTO skills (name) VALUES ('sql')",
        "INSERT INTO skills (name, level) VALUES ('x', 7)",
        "INSERT INTO employees (id, kind, email, number) VALUES (9, 'x', 'boss@example.com', 1)",
    ):
        with pytest.raises(IntegrityError, match="duplicate key"):
            door.run("uk", lambda session, each=statement: session.execute(text(each)))  # type: ignore[misc]
    # What happens on delete happens to the own rows, and spares the tenant column.
    door.run("uk", lambda session: session.execute(text("DELETE FROM employee_skills")))
    door.run("uk", lambda session: session.execute(text("DELETE FROM employees WHERE id = 1")))
    assert door.run("uk", lambda session: session.get_one(Employee, 2).boss_id) is None
    door.run("uk", lambda session: session.execute(text("DELETE FROM places.sites")))
    assert door.run("uk", lambda session: session.scalar(select(func.count(Room.id)))) == 0
    assert door.run("aus", look) == SEEN


def tenancy_of(place: Place, *tenants: Tenant) -> Tenancy:
    servers = {"main": place.server()}
    return Tenancy(MappingDirectory(tenants, servers=servers), servers)


def test_unchanged_models_of_many_shapes_serve_two_tenants(place: Place) -> None:
    engine = create(place, Shapes.metadata)
    tenancy = tenancy_of(place, place.tenant("uk"), place.tenant("aus"))
    use_shapes(place, tenancy)
    tenancy.close()
    engine.dispose()
    # The models themselves know nothing of it.
    assert "tenant_id" not in employee_skills.c
    assert [column.name for column in Employee.__table__.primary_key] == ["id"]


def test_tables_of_one_tenant_are_adopted_with_their_rows(place: Place) -> None:
    """Made as the application made them before, names of keys and all."""
    place.execute("CREATE SCHEMA places")
    before = MetaData()
    for table in Shapes.metadata.sorted_tables:
        copied = table.to_metadata(before)
        if "tenant_id" in copied.c:
            copied._columns.remove(copied.c.tenant_id)
    engine = place.admin_engine()
    before.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO skills (name) VALUES ('old')"))
        connection.execute(
            text("INSERT INTO employees (id, kind, email, number) VALUES (70, 'employee', 'o', 1)")
        )
        connection.execute(text("INSERT INTO employee_skills VALUES (70, 1)"))
    create(place, Shapes.metadata, adopt="uk").dispose()
    tenancy = tenancy_of(place, place.tenant("uk"), place.tenant("aus"))
    door = Door(tenancy, False)

    def old(session: Session) -> list[str]:
        return [skill.name for each in session.query(Employee) for skill in each.skills]

    assert door.run("uk", old) == ["old"]
    assert door.run("aus", old) == []
    door.run("uk", lambda session: session.delete(session.get_one(Employee, 70)))
    place.execute("DELETE FROM skills WHERE name = 'old'")
    use_shapes(place, tenancy)
    tenancy.close()
    engine.dispose()


def test_a_constraint_that_compares_rows_needs_the_column() -> None:
    metadata = MetaData()
    Table(
        "bookings",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("during", INT4RANGE),
        Column("tenant_id", String(64), info={"tenantry": "tenant"}),
        ExcludeConstraint(("during", "&&")),
    )
    with pytest.raises(ConfigurationError, match="exclusion constraint of table 'bookings'"):
        rows_metadata(metadata)


def test_a_table_alone_without_tenant_column_is_refused() -> None:
    metadata = MetaData()
    Table("lonely", metadata, Column("id", Integer, primary_key=True))
    with pytest.raises(ConfigurationError, match="'lonely' has no tenant column"):
        rows_metadata(metadata)
    with pytest.raises(ConfigurationError, match="'lonely' has no tenant column"):
        policy_statements(metadata, schema="public", login="app")
    assert list(rows_metadata(mark_shared(metadata)).tables) == ["lonely"]


# Columns of one's own -------------------------------------------------------------------------


class Own(DeclarativeBase):
    metadata = MetaData()


class Bill(Own):
    __tablename__ = "bills"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[int] = mapped_column(
        "account_no", default=tenant_key, info={"tenantry": "tenant"}
    )
    amount: Mapped[int] = mapped_column(default=0)


class Ticket(Own):
    __tablename__ = "tickets"
    __table_args__ = (PrimaryKeyConstraint("id", "organisation"),)
    organisation: Mapped[uuid.UUID] = mapped_column(
        Uuid, default=tenant_key, info={"tenantry": "tenant"}
    )
    id: Mapped[int] = mapped_column(autoincrement=False)


@pytest.mark.parametrize("server", ["postgresql", "sqlite"])
@pytest.mark.parametrize(
    ("model", "attribute", "keys"),
    [
        (Bill, "owner", ("17", "18")),
        (Ticket, "organisation", (str(uuid.UUID(int=5)), str(uuid.UUID(int=6)))),
    ],
)
def test_a_tenant_column_has_its_own_name_and_type(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    server: str,
    model: Any,
    attribute: str,
    keys: tuple[str, str],
) -> None:
    kind = KIND if server == "postgresql" else Kind("sqlite", "pysqlite", isolation=Isolation.ROWS)
    address = request.getfixturevalue("postgresql") if server == "postgresql" else None
    only = MetaData()
    table: Any = model.__table__
    table.to_metadata(only)
    with made(kind, tmp_path_factory.mktemp("own"), address) as place:
        if server == "postgresql":
            create(place, only).dispose()
        else:
            place.create_as_admin(only)
        tenancy = tenancy_of(
            place, place.tenant("uk", key=keys[0]), place.tenant("aus", key=keys[1])
        )
        door = Door(tenancy, False)
        door.run("uk", lambda session: session.add(model(id=1)))
        door.run("aus", lambda session: session.add(model(id=2)))
        for tenant_id, key, number in (("uk", keys[0], 1), ("aus", keys[1], 2)):
            found = door.run(
                tenant_id,
                lambda session: [
                    (each.id, str(getattr(each, attribute))) for each in session.query(model)
                ],
            )
            assert found == [(number, key)]
        theirs: object = int(keys[1]) if model is Bill else uuid.UUID(keys[1])
        with pytest.raises(CrossTenantError):
            door.run("uk", lambda session: session.add(model(**{"id": 3, attribute: theirs})))

        def give_away(session: Session) -> None:
            setattr(session.query(model).one(), attribute, theirs)

        with pytest.raises(CrossTenantError):
            door.run("uk", give_away)
        tenancy.close()


def test_a_key_that_is_no_value_of_the_column_is_a_setting_to_change(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    kind = Kind("sqlite", "pysqlite", isolation=Isolation.ROWS)
    with made(kind, tmp_path_factory.mktemp("own"), None) as place:
        place.create_as_admin(Own.metadata)
        tenancy = tenancy_of(place, place.tenant("uk"))
        with pytest.raises(ConfigurationError, match=r"'uk' is no value of column 'account_no'"):
            Door(tenancy, False).run("uk", lambda session: session.add(Bill(id=1)))
        tenancy.close()


def test_the_key_of_a_tenant_in_rows_is_its_id_or_what_is_given(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "tenants.toml").write_text(
        """
        [servers.local]
        url = "sqlite:///data"
        create_missing = true
        [tenants.uk]
        isolation = "rows"
        [tenants.aus]
        isolation = "rows"
        key = "17"
        """
    )
    tenancy = Tenancy.from_file(folder / "tenants.toml")
    assert [(each.id, each.key) for each in tenancy.tenants()] == [("aus", "17"), ("uk", "uk")]
    assert {each.placement.database for each in tenancy.tenants()} == {"rows.db"}
    moved = MappingDirectory([Tenant("uk", Placement("elsewhere", Isolation.ROWS))])
    assert moved.get("uk").key == "uk"
