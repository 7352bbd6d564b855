"""Tenants and placements: frozen, comparable, safe to log."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from tenantry import Isolation, Placement, State, Tenant
from tenantry.errors import (
    ConfigurationError,
    InvalidTenantIdError,
    TenantDeletedError,
    TenantMovingError,
    TenantNotReadyError,
    TenantSuspendedError,
)

UK = Tenant("uk", Placement("eu", database="uk"), attributes={"plan": "gold"}, identifiers=("b",))


def test_a_tenant_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        UK.id = "aus"  # type: ignore[misc]
    with pytest.raises(TypeError):
        UK.attributes["plan"] = "free"  # type: ignore[index]


def test_attributes_are_those_of_the_moment() -> None:
    attributes = {"plan": "gold"}
    tenant = Tenant("uk", Placement("eu"), attributes=attributes)
    attributes["plan"] = "free"
    assert tenant.attributes["plan"] == "gold"


def test_equal_values_are_equal_and_hash_alike() -> None:
    again = Tenant(
        "uk", Placement("eu", database="uk"), attributes={"plan": "gold"}, identifiers=("b",)
    )
    assert again == UK
    assert hash(again) == hash(UK)
    assert dataclasses.replace(UK, generation=2) != UK
    assert dataclasses.replace(UK, attributes={}) != UK


def test_a_tenant_survives_pickling_and_copying() -> None:
    for again in (pickle.loads(pickle.dumps(UK)), copy.deepcopy(UK), copy.copy(UK)):
        assert again == UK
        assert again.attributes == UK.attributes


def test_words_are_taken_for_isolation_and_state() -> None:
    tenant = Tenant("uk", Placement("eu", "schema", schema="uk"), state="suspended")  # type: ignore[arg-type]
    assert tenant.placement.isolation is Isolation.SCHEMA
    assert tenant.state is State.SUSPENDED
    assert f"{tenant.state} {tenant.placement.isolation}" == "suspended schema"


def test_impossible_placements_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="schema="):
        Placement("eu", Isolation.SCHEMA)
    with pytest.raises(ConfigurationError, match="'databse' is unknown"):
        Placement("eu", "databse")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", "UK", "uk\n", "postgres", None, 7])
def test_what_is_no_id_makes_no_tenant(value: str) -> None:
    with pytest.raises(InvalidTenantIdError):
        Tenant(value, Placement("eu"))


def test_the_stamp_tells_successors_apart() -> None:
    stamps = {
        UK.stamp,
        dataclasses.replace(UK, generation=2).stamp,
        dataclasses.replace(UK, key="other").stamp,
    }
    assert len(stamps) == 3
    assert UK.key == "uk"
    assert str(UK) == "uk"


@pytest.mark.parametrize("state", [State.READY, State.READ_ONLY])
def test_two_states_serve(state: State) -> None:
    UK.with_state(state).check_serving()


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (State.CREATING, TenantNotReadyError),
        (State.SUSPENDED, TenantSuspendedError),
        (State.MOVING, TenantMovingError),
        (State.DELETING, TenantDeletedError),
        (State.DELETED, TenantDeletedError),
    ],
)
def test_the_other_states_refuse_by_name(state: State, error: type[Exception]) -> None:
    with pytest.raises(error, match="'uk'"):
        UK.with_state(state).check_serving()


def test_a_placement_reads_well() -> None:
    assert str(Placement("eu", database="uk")) == "eu/uk (database)"
    assert str(Placement("eu", Isolation.SCHEMA, "app", "uk")) == "eu/app/uk (schema)"
