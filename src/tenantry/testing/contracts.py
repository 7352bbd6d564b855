"""What any directory must hold: subclass, say in ``make`` how yours is made, run it with pytest.

``docs/directories.md`` shows one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ..directory import Directory, WritableDirectory
from ..errors import DuplicatePlacementError, TenantryError, UnknownTenantError
from ..tenant import Isolation, Placement, State, Tenant

__all__ = ["DirectoryContract", "WritableDirectoryContract"]

_NO_IDS: Sequence[Any] = (
    "",
    "UK",
    "uk ",
    "uk\n",
    "uk\0",
    "uk'; drop table tenantry_tenants; --",
    "../uk",
    "u\u043a",
    "a" * 64,
    "postgres",
    None,
    7,
    b"uk",
    ["uk"],
    {"uk": 1},
)


def _tenant(tenant_id: str, **values: Any) -> Tenant:
    values.setdefault("placement", Placement("main", database=f"{tenant_id}.db"))
    return Tenant(tenant_id, **values)


def _refused(error: type[TenantryError], call: Callable[..., Any], *args: Any, **kw: Any) -> str:
    try:
        answer = call(*args, **kw)
    except error as refusal:
        return str(refusal)
    raise AssertionError(f"{error.__name__} was expected, {answer!r} came")


class DirectoryContract:
    """What holds for every directory."""

    def make(self, tenants: Sequence[Tenant]) -> Directory:
        """A directory that holds exactly *tenants*; all are on a server called ``main``."""
        raise NotImplementedError

    def test_a_tenant_is_got_by_its_id(self) -> None:
        directory = self.make([_tenant("uk"), _tenant("aus")])
        assert directory.get("uk").id == "uk"
        assert directory.get("aus").placement == Placement("main", database="aus.db")

    def test_a_tenant_is_found_by_id_and_by_identifier(self) -> None:
        directory = self.make([_tenant("uk", identifiers=("shop.example.org", "britain"))])
        for identifier in ("uk", "shop.example.org", "britain"):
            assert directory.find(identifier).id == "uk"
        _refused(UnknownTenantError, directory.get, "britain")

    def test_an_unknown_tenant_is_refused_by_name(self) -> None:
        directory = self.make([_tenant("uk")])
        for question in (directory.get, directory.find):
            assert "'nobody'" in _refused(UnknownTenantError, question, "nobody")
        assert directory.peek("nobody") is None

    def test_what_is_no_id_is_unknown(self) -> None:
        directory = self.make([_tenant("uk")])
        for value in _NO_IDS:
            for question in (directory.get, directory.find):
                message = _refused(UnknownTenantError, question, value)
                assert message.isascii()
                assert message.isprintable()
            assert directory.peek(value) is None

    def test_everything_that_was_recorded_comes_back(self) -> None:
        recorded = [
            _tenant(
                "uk",
                placement=Placement("main", Isolation.SCHEMA, database="app", schema="uk"),
                state=State.SUSPENDED,
                attributes={"plan": "gold", "name": "Zo\u00eb's \u2713", "seats": 3},
                identifiers=("b", "a"),
                untrusted_sql=True,
            ),
            _tenant("corner", placement=Placement("main", Isolation.ROWS, database="rows.db")),
        ]
        directory = self.make(recorded)
        for tenant in recorded:
            found = directory.get(tenant.id)
            assert replace(found, key=tenant.key) == tenant
            assert found.key
            assert found.generation == 1

    def test_a_tenant_of_every_state_is_returned(self) -> None:
        directory = self.make([_tenant(state.value, state=state) for state in State])
        for state in State:
            assert directory.get(state.value).state is state

    def test_all_tenants_come_ordered_by_id(self) -> None:
        names = ["b", "a_1", "a-1", "a1", "ab", "a"]
        directory = self.make([_tenant(name) for name in names])
        assert [tenant.id for tenant in directory.tenants()] == sorted(names)
        assert list(self.make([]).tenants()) == []

    def test_a_peek_says_what_get_says_or_nothing(self) -> None:
        directory = self.make([_tenant("uk")])
        assert directory.peek("uk") in (None, directory.get("uk"))
        assert directory.peek("uk") in (None, directory.get("uk"))

    def test_any_thread_may_ask(self) -> None:
        names = [f"t{number}" for number in range(8)]
        directory = self.make([_tenant(name) for name in names])
        with ThreadPoolExecutor(8) as threads:
            for name, tenant in zip(names * 5, threads.map(directory.get, names * 5), strict=True):
                assert tenant.id == name


class WritableDirectoryContract(DirectoryContract):
    """What holds besides for directories that can be changed."""

    def make(self, tenants: Sequence[Tenant]) -> WritableDirectory:
        """A directory that holds exactly *tenants*; all are on a server called ``main``."""
        raise NotImplementedError

    def test_a_new_tenant_gets_a_key_and_is_there(self) -> None:
        directory = self.make([])
        recorded = directory.add(_tenant("uk", identifiers=("uk", "shop.example.org")))
        assert recorded.key != "uk"
        assert recorded.generation == 1
        assert directory.get("uk") == recorded
        assert directory.find("shop.example.org") == recorded

    def test_a_tenant_that_was_unknown_is_seen_at_once(self) -> None:
        directory = self.make([])
        _refused(UnknownTenantError, directory.get, "uk")
        _refused(UnknownTenantError, directory.find, "uk")
        recorded = directory.add(_tenant("uk"))
        assert directory.get("uk") == directory.find("uk") == recorded

    def test_what_is_taken_is_refused_and_changes_nothing(self) -> None:
        directory = self.make([_tenant("uk", identifiers=("britain",))])
        other = Placement("main", database="other.db")
        taken = [
            _tenant("uk", placement=other),
            _tenant("britain", placement=other),
            _tenant("eu", placement=other, identifiers=("uk",)),
            _tenant("eu", placement=other, identifiers=("britain",)),
            _tenant("eu", placement=other, key=directory.get("uk").key),
            _tenant("eu", placement=Placement("main", database="uk.db")),
            _tenant("eu", placement=Placement("main", Isolation.ROWS, database="uk.db")),
        ]
        before = list(directory.tenants())
        for tenant in taken:
            message = _refused(DuplicatePlacementError, directory.add, tenant)
            assert repr(tenant.id) in message
        assert list(directory.tenants()) == before
        directory.add(_tenant("eu", placement=other))

    def test_rows_tenants_share_a_place_with_each_other_only(self) -> None:
        rows = Placement("main", Isolation.ROWS, database="rows.db")
        directory = self.make([])
        directory.add(_tenant("uk", placement=rows))
        directory.add(_tenant("aus", placement=rows))
        alone = Placement("main", database="rows.db")
        _refused(DuplicatePlacementError, directory.add, _tenant("eu", placement=alone))

    def test_a_database_of_its_own_is_shared_with_nobody(self) -> None:
        def schema(database: str, name: str) -> Placement:
            return Placement("main", Isolation.SCHEMA, database=database, schema=name)

        directory = self.make([])
        directory.add(_tenant("uk", placement=schema("app.db", "uk")))
        alone = _tenant("eu", placement=Placement("main", database="app.db"))
        message = _refused(DuplicatePlacementError, directory.add, alone)
        assert "'eu'" in message
        assert "'uk'" in message
        eu = directory.add(_tenant("eu", placement=Placement("main", database="eu.db")))
        rows = Placement("main", Isolation.ROWS, database="eu.db", schema="shop")
        for place in (schema("eu.db", "aus"), rows):
            _refused(DuplicatePlacementError, directory.add, _tenant("aus", placement=place))
        moved = replace(eu, placement=alone.placement)
        _refused(DuplicatePlacementError, directory.replace, moved, expected=eu)
        assert [tenant.id for tenant in directory.tenants()] == ["eu", "uk"]
        # The tenant's own old place is in nobody's way, and free as soon as it is left.
        inside = directory.replace(replace(eu, placement=schema("eu.db", "eu")), expected=eu)
        left = replace(inside, placement=schema("else.db", "eu"))
        directory.replace(left, expected=inside)
        directory.add(_tenant("aus", placement=Placement("main", database="eu.db")))

    def test_a_change_is_recorded(self) -> None:
        directory = self.make([_tenant("uk", identifiers=("a", "b"))])
        before = directory.get("uk")
        changed = replace(
            before, state=State.SUSPENDED, attributes={"plan": "free"}, identifiers=("b", "c")
        )
        assert directory.replace(changed, expected=before) == changed
        assert directory.get("uk") == directory.find("c") == directory.find("b") == changed
        _refused(UnknownTenantError, directory.find, "a")

    def test_a_change_of_what_is_not_so_any_more_is_refused(self) -> None:
        directory = self.make([_tenant("uk")])
        before = directory.get("uk")
        after = directory.replace(before.with_state("suspended"), expected=before)
        late = before.with_state("deleting")
        _refused(UnknownTenantError, directory.replace, late, expected=before)
        assert directory.get("uk") == after

    def test_another_place_is_another_generation(self) -> None:
        directory = self.make([_tenant("uk"), _tenant("eu")])
        before = directory.get("uk")
        moved = replace(before, placement=Placement("main", database="new.db"), key="other")
        after = directory.replace(moved, expected=before)
        assert after.generation == before.generation + 1
        assert after.key == before.key
        onto_eu = replace(after, placement=Placement("main", database="eu.db"))
        _refused(DuplicatePlacementError, directory.replace, onto_eu, expected=after)
        assert directory.get("uk") == after
        directory.add(_tenant("back", placement=before.placement))

    def test_a_removed_tenant_is_gone_and_its_successor_is_another(self) -> None:
        directory = self.make([_tenant("uk", identifiers=("britain",))])
        old = directory.get("uk")
        assert directory.next_generation("uk") == 2
        directory.remove(old)
        _refused(UnknownTenantError, directory.get, "uk")
        _refused(UnknownTenantError, directory.find, "britain")
        _refused(UnknownTenantError, directory.remove, old)
        assert directory.next_generation("uk") == 2
        new = directory.add(_tenant("uk", identifiers=("britain",)))
        assert new.generation == 2
        assert new.key != old.key
        assert new.stamp != old.stamp
        _refused(UnknownTenantError, directory.remove, old)
        again = _tenant("eu", key=old.key)
        _refused(DuplicatePlacementError, directory.add, again)

    def test_of_many_who_change_the_same_one_wins(self) -> None:
        directory = self.make([_tenant("uk")])
        before = directory.get("uk")
        start = threading.Barrier(6)

        def change(number: int) -> bool:
            start.wait()
            try:
                directory.replace(replace(before, attributes={"by": number}), expected=before)
            except UnknownTenantError:
                return False
            return True

        with ThreadPoolExecutor(6) as threads:
            assert sum(threads.map(change, range(6))) == 1

    def test_of_many_who_add_the_same_one_wins(self) -> None:
        directory = self.make([])
        start = threading.Barrier(6)

        def add(number: int) -> bool:
            start.wait()
            try:
                directory.add(_tenant("uk", placement=Placement("main", database=f"{number}.db")))
            except DuplicatePlacementError:
                return False
            return True

        with ThreadPoolExecutor(6) as threads:
            assert sum(threads.map(add, range(6))) == 1
        assert len(list(directory.tenants())) == 1
