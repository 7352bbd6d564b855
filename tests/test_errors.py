"""Families, statuses, and messages that say what to do next."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest
from sqlalchemy.exc import SQLAlchemyError

from tenantry import errors
from tenantry.errors import TenantryError, bare_errors, without_frames

CLASSES = [
    thing
    for thing in vars(errors).values()
    if inspect.isclass(thing) and issubclass(thing, TenantryError)
]
FAMILIES = (
    errors.CallerError,
    errors.VisitorError,
    errors.OperatorError,
    errors.ConfigurationError,
)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_one_family_and_no_foreign_one(kind: type[TenantryError]) -> None:
    if kind is not TenantryError:
        assert len([family for family in FAMILIES if issubclass(kind, family)]) == 1
    # Code that retries database errors must never retry a leak.
    assert not issubclass(kind, (SQLAlchemyError, OSError, ValueError, LookupError))


@pytest.mark.parametrize("kind", CLASSES)
def test_the_class_explains_itself_in_one_line(kind: type[TenantryError]) -> None:
    message = str(kind())
    assert len(message) > 15
    assert "\n" not in message
    assert "  " not in message
    assert str(kind("other words")) == "other words"


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_pickling(kind: type[TenantryError]) -> None:
    again = pickle.loads(pickle.dumps(kind("words", tenant_id="uk")))
    assert type(again) is kind
    assert (str(again), again.tenant_id) == ("words", "uk")


def test_statuses_are_those_of_the_design() -> None:
    expected: dict[type[TenantryError], int] = {
        errors.TenantNotIdentifiedError: 400,
        errors.InvalidTokenError: 401,
        errors.TenantMismatchError: 403,
        errors.TenantSuspendedError: 403,
        errors.UnknownTenantError: 404,
        errors.InvalidTenantIdError: 404,
        errors.TenantDeletedError: 404,
        errors.TenantMovingError: 503,
        errors.TenantReadOnlyError: 503,
        errors.TenantNotReadyError: 503,
        errors.ServerUnavailableError: 503,
        errors.BudgetExhaustedError: 503,
        errors.NoTenantError: 500,
        errors.ConfigurationError: 500,
    }
    assert {kind: kind.http_status for kind in expected} == expected
    for kind in CLASSES:
        if kind.http_status == 503 and kind is not TenantryError:
            assert kind.retry_after_seconds


@pytest.mark.parametrize("kind", CLASSES)
def test_the_tree_at_the_top_is_drawn_as_it_is(kind: type[TenantryError]) -> None:
    drawn = [
        re.split(r"(?<=\w)  |$", line)[0]
        for line in inspect.cleandoc(errors.__doc__ or "").splitlines()
    ]
    depth = kind.__mro__.index(TenantryError)
    places = [
        line.index(kind.__name__) for line in drawn if re.search(rf"\b{kind.__name__}$", line)
    ]
    assert places == [4 + 4 * depth]


def failing(secret: str) -> None:
    try:
        raise OSError(f"cannot use {secret}")
    except OSError as error:
        raise TenantryError("it failed") from error


def test_frames_are_cut_off_the_whole_chain() -> None:
    with pytest.raises(TenantryError) as caught:
        failing("hush")
    error = without_frames(caught.value)
    assert error.__traceback__ is None
    assert error.__cause__ is not None
    assert error.__cause__.__traceback__ is None


def test_a_bare_error_holds_no_frame_of_the_function() -> None:
    with pytest.raises(TenantryError) as caught:
        bare_errors(failing)("hush")
    trace = caught.value.__traceback__
    names = []
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        assert "args" not in trace.tb_frame.f_locals
        trace = trace.tb_next
    assert names[1:] == ["bare"]
    assert bare_errors(len)([1]) == 1


def test_chains_that_bite_their_tail_end() -> None:
    one, other = ValueError("1"), ValueError("2")
    one.__cause__, other.__context__ = other, one
    assert without_frames(one) is one
