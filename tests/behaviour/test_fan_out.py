"""Reading many tenants at once: on purpose, with a permission, each row with its tenant."""

from __future__ import annotations

import pytest
from sqlalchemy import delete, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from tenantry import Isolation, Tenancy, events
from tenantry.errors import CallerError, UnknownTenantError, UnsupportedError
from tests.places import Door, Note, Place

BOTH = ["aus", "uk"]


@pytest.fixture
def filled(place: Place, door: Door) -> Door:
    if place.kind.is_async:
        pytest.skip("fan_out reads through threads")

    for tenant_id in BOTH:

        def fill(session: Session, tenant_id: str = tenant_id) -> None:
            session.add_all([Note(id=n, tenant=tenant_id) for n in range(1, 1201)])

        door.run(tenant_id, fill)
    return door


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_come_with_their_tenant(tenancy: Tenancy, filled: Door, workers: int) -> None:
    heard: list[events.Event] = []
    stop = events.listen(heard.append)
    with tenancy.shared():
        rows = list(
            tenancy.fan_out(select(Note.tenant), permission="monthly report", workers=workers)
        )
    stop()
    assert len(rows) == 2400
    assert all(tenant_id == row.tenant for tenant_id, row in rows)
    fanned = [each for each in heard if isinstance(each, events.FannedOut)]
    assert [(each.permission, list(each.tenant_ids)) for each in fanned] == [
        ("monthly report", BOTH)
    ]
    assert tenancy.status()["held_by"] == {}


def test_a_consumer_may_stop(tenancy: Tenancy, filled: Door) -> None:
    with tenancy.shared():
        rows = tenancy.fan_out(select(Note.tenant), permission="a look", workers=2)
        next(iter(rows))
        rows.close()
    assert tenancy.status()["held_by"] == {}


def test_it_is_refused_without_purpose(tenancy: Tenancy, filled: Door) -> None:
    with pytest.raises(CallerError, match=r"inside `with tenancy\.shared"):
        tenancy.fan_out(select(Note), permission="x")
    with tenancy.use("uk"), pytest.raises(CallerError, match="'uk' is current"):
        tenancy.fan_out(select(Note), permission="x")
    with tenancy.shared():
        with pytest.raises(CallerError, match="permission"):
            tenancy.fan_out(select(Note), permission=" ")
        with pytest.raises(CallerError, match="reads"):
            tenancy.fan_out(delete(Note), permission="x")  # type: ignore[arg-type]
        with pytest.raises(UnknownTenantError):
            tenancy.fan_out(select(Note), permission="x", tenants=["nobody"])


def read_report(session: Session) -> None:
    session.execute(text("SELECT * FROM reports.notes"))


def test_one_view_over_schemas_of_one_database(
    place: Place, tenancy: Tenancy, filled: Door
) -> None:
    schemas = place.kind.server == "postgresql" and place.kind.isolation is Isolation.SCHEMA
    table = Note.__table__
    if not schemas:
        if place.kind.server != "mariadb" or place.kind.isolation is not Isolation.SCHEMA:
            with pytest.raises(UnsupportedError, match="fan_out"):
                tenancy.union_view(table, name="notes", schema="r", reader="x")  # type: ignore[arg-type]
        return
    reader = place.role("reader")
    statements = tenancy.union_view(table, name="notes", schema="reports", reader=reader)  # type: ignore[arg-type]
    for statement in statements:
        place.execute(statement)
    rows = place.execute("SELECT DISTINCT tenantry_tenant, tenant FROM reports.notes")
    assert sorted(rows) == [("aus", "aus"), ("uk", "uk")]
    for tenant_id in BOTH:  # the application's login reads no view over all tenants
        with pytest.raises(DBAPIError, match="permission denied"):
            filled.run(
                tenant_id, lambda session: session.execute(text("SELECT * FROM reports.notes"))
            )
    place.execute("DROP SCHEMA reports CASCADE")
    place.execute(f'DROP OWNED BY "{reader}"')
