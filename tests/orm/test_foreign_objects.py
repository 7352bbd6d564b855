"""Objects of one tenant are refused by sessions of another, before anything is flushed."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import inspect, select
from sqlalchemy.orm import Session, make_transient_to_detached, sessionmaker

from tenantry import Tenancy, TenantSession
from tenantry.errors import CrossTenantError
from tests.places import Author, Note

Opener = Callable[[Tenancy, str], Session]


def pinned(tenancy: Tenancy, tenant_id: str) -> Session:
    return tenancy.session(tenant_id, expire_on_commit=False)


def plain(tenancy: Tenancy, tenant_id: str) -> Session:
    """SQLAlchemy's own Session on the routed engine: adopted at its first transaction."""
    return Session(tenancy.engine, expire_on_commit=False)


def made_by_sessionmaker(tenancy: Tenancy, tenant_id: str) -> Session:
    maker = sessionmaker(tenancy.engine, class_=TenantSession, expire_on_commit=False)
    return maker()


OPENERS = [pinned, plain, made_by_sessionmaker]
each_opener = pytest.mark.parametrize("opener", OPENERS)
each_source = pytest.mark.parametrize("source", OPENERS)


@contextmanager
def opened(tenancy: Tenancy, opener: Opener, tenant_id: str) -> Iterator[Session]:
    with tenancy.use(tenant_id), opener(tenancy, tenant_id) as session:
        session.connection()
        yield session


def detached(tenancy: Tenancy, opener: Opener, tenant_id: str = "uk") -> Note:
    """A note of *tenant_id* with its author, loaded and let go."""
    with opened(tenancy, opener, tenant_id) as session:
        note = session.get(Note, 1)
        assert note is not None
        assert note.author is not None
        session.expunge_all()
        return note


def add(session: Session, note: Note) -> None:
    session.add(note)


def add_all(session: Session, note: Note) -> None:
    session.add_all([note])


def merge(session: Session, note: Note) -> None:
    session.merge(note)


def merge_without_load(session: Session, note: Note) -> None:
    session.merge(note, load=False)


def merge_related(session: Session, note: Note) -> None:
    session.merge(Note(id=7, tenant="aus", author=note.author))


def append(session: Session, note: Note) -> None:
    author = session.get(Author, 1)
    assert author is not None
    author.notes.append(note)


def relate(session: Session, note: Note) -> None:
    own = session.get(Note, 1)
    assert own is not None
    own.author = note.author


def add_related(session: Session, note: Note) -> None:
    session.add(Note(id=8, tenant="aus", author=note.author))


def delete(session: Session, note: Note) -> None:
    session.delete(note)


def bulk_save(session: Session, note: Note) -> None:
    session.bulk_save_objects([note])


def load_relationships(session: Session, note: Note) -> None:
    session.enable_relationship_loading(note)


def unpickle_and_add(session: Session, note: Note) -> None:
    session.add(pickle.loads(pickle.dumps(note)))


def unpickle_and_merge(session: Session, note: Note) -> None:
    session.merge(pickle.loads(pickle.dumps(note)))


WAYS = [
    add,
    add_all,
    merge,
    merge_without_load,
    merge_related,
    append,
    relate,
    add_related,
    delete,
    bulk_save,
    load_relationships,
    unpickle_and_add,
    unpickle_and_merge,
]


@pytest.mark.parametrize("way", WAYS)
@each_source
@each_opener
def test_a_foreign_object_is_refused(
    tenancy: Tenancy, source: Opener, opener: Opener, way: Callable[[Session, Note], None]
) -> None:
    foreign = detached(tenancy, source)
    foreign.body = "changed by uk"
    with opened(tenancy, opener, "aus") as session:
        with pytest.raises(CrossTenantError, match="another tenant"):
            way(session, foreign)
            session.flush()
        session.rollback()
    for tenant_id in ("uk", "aus"):
        with opened(tenancy, pinned, tenant_id) as session:
            rows = session.execute(select(Note.id, Note.tenant, Note.body)).all()
            assert [tuple(row) for row in rows] == [(1, tenant_id, "")]
            assert session.scalars(select(Author.name)).all() == [tenant_id]


@pytest.mark.parametrize("way", [add, merge, unpickle_and_add, unpickle_and_merge])
@each_opener
def test_an_own_object_comes_back(
    tenancy: Tenancy, opener: Opener, way: Callable[[Session, Note], None]
) -> None:
    own = detached(tenancy, opener)
    own.body = "changed"
    with opened(tenancy, opener, "uk") as session:
        way(session, own)
        session.commit()
        assert session.scalar(select(Note.body)) == "changed"


@each_source
@each_opener
def test_a_merge_as_the_first_thing_a_session_does(
    tenancy: Tenancy, source: Opener, opener: Opener
) -> None:
    """A plain Session is adopted in the middle of it; what it read is not overwritten."""
    foreign = detached(tenancy, source)
    foreign.body = "changed by uk"
    with tenancy.use("aus"), opener(tenancy, "aus") as session, pytest.raises(CrossTenantError):
        session.merge(foreign)
        session.flush()
    with opened(tenancy, pinned, "aus") as session:
        assert session.scalar(select(Note.body)) == ""


def test_500_objects_by_merge_add_and_pickle_are_all_refused(tenancy: Tenancy) -> None:
    refused = 0
    with opened(tenancy, pinned, "uk") as session:
        session.add_all([Note(id=n, tenant="uk", author_id=1) for n in range(10, 135)])
        session.commit()
        notes = list(session.scalars(select(Note).where(Note.id >= 10)))
        session.expunge_all()
    with opened(tenancy, pinned, "aus") as session:
        for note in notes:
            for way in (add, merge, unpickle_and_add, unpickle_and_merge):
                with pytest.raises(CrossTenantError):
                    way(session, note)
                refused += 1
        assert not session.new
        assert not session.dirty
    assert refused == 500


def test_identity_keys_carry_the_tenants_surrogate_key(tenancy: Tenancy) -> None:
    key = tenancy.get("uk").key
    with opened(tenancy, pinned, "uk") as session:
        loaded = session.get(Note, 1)
        new = Note(tenant="uk")
        session.add(new)
        session.flush()
        for each in (loaded, new):
            identity = inspect(each).identity_key
            assert identity is not None
            assert identity[2] == key
        assert session.get(Note, new.id) is new
        identities = session.identity_map.keys()  # which is no dict
        assert all(identity[2] == key for identity in identities)


def test_an_object_made_detached_by_hand_is_nobodys(tenancy: Tenancy) -> None:
    invented = Note(id=1, tenant="uk")
    make_transient_to_detached(invented)
    with opened(tenancy, pinned, "aus") as session, pytest.raises(CrossTenantError):
        session.add(invented)


async def test_the_asynchronous_session_refuses_the_same(tenancy: Tenancy) -> None:
    foreign = detached(tenancy, pinned)
    async with tenancy.use("aus"), tenancy.asession() as session:
        with pytest.raises(CrossTenantError):
            session.add(foreign)
        with pytest.raises(CrossTenantError):
            await session.merge(foreign)
        with pytest.raises(CrossTenantError):
            session.add(pickle.loads(pickle.dumps(foreign)))
        with pytest.raises(CrossTenantError):
            await session.delete(foreign)
    await tenancy.aclose()


def test_a_session_is_not_pickled(tenancy: Tenancy) -> None:
    with opened(tenancy, pinned, "uk") as session, pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(session)


@each_opener
def test_a_transaction_is_one_connection_to_its_end(tenancy: Tenancy, opener: Opener) -> None:
    with tenancy.use("uk"), opener(tenancy, "uk") as session:
        for _ in range(2):
            assert session.scalar(select(Note.tenant)) == "uk"
            session.add(Author(name="new"))
            session.flush()
            assert len(session.scalars(select(Author.name)).all()) == 2
            assert tenancy.status()["held_by"] == {"uk": 1}
            session.rollback()
    assert tenancy.status()["held_by"] == {}
