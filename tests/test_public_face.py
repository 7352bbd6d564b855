"""The public face is honest: every name exists, explains itself, and stands on some page."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "src" / "tenantry"


def public_modules() -> list[str]:
    """``tenantry``, its packages that list names, and every module of ``integrations``."""
    names = ["tenantry"]
    for init in sorted(PACKAGE.glob("*/__init__.py")):
        if "__all__" in init.read_text():
            names.append(f"tenantry.{init.parent.name}")
    for path in sorted((PACKAGE / "integrations").glob("[!_]*")):
        if path.suffix == ".py" or (path / "__init__.py").exists():
            names.append(f"tenantry.integrations.{path.stem}")
    return names


@cache
def pages() -> str:
    paths = [CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md")]
    return "\n".join(path.read_text() for path in paths)


def on_some_page(name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", pages()) is not None


def names_of(module: str) -> list[str]:
    return list(getattr(importlib.import_module(module), "__all__", []))


def unexplained(name: str, thing: object) -> Iterator[str]:
    """*name*, or those public members of it, that have no docstring of their own."""
    # By its own type: a proxy would ask what it stands for.
    if not issubclass(type(thing), type | FunctionType | ModuleType):
        return  # a constant or an alias is explained where it is declared
    if not isinstance(thing, type):
        if not inspect.getdoc(thing):
            yield name
        return
    # A class without its own docstring would show that of its base.
    if not vars(thing).get("__doc__"):
        yield name
    for member, value in vars(thing).items():
        inner = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        is_door = inspect.isfunction(inner) or isinstance(inner, property)
        if is_door and not member.startswith("_") and not inspect.getdoc(getattr(thing, member)):
            yield f"{name}.{member}"


@pytest.mark.parametrize("module", public_modules())
def test_what_is_public_is_listed_once(module: str) -> None:
    names = names_of(module)
    assert names, f"{module} lists no __all__"
    assert len(names) == len(set(names))


@pytest.mark.parametrize("module", public_modules())
def test_what_is_public_exists_and_explains_itself(module: str) -> None:
    face = importlib.import_module(module)
    missing = [one for name in names_of(module) for one in unexplained(name, getattr(face, name))]
    assert not missing, f"without a docstring: {missing}"


@pytest.mark.newest  # reads files only
@pytest.mark.parametrize("module", public_modules())
def test_what_is_public_stands_on_some_page(module: str) -> None:
    missing = [name for name in names_of(module) if not on_some_page(name)]
    assert not missing, f"no page mentions {missing}"


@pytest.mark.newest  # reads files only
def test_every_error_has_its_entry() -> None:
    errors = importlib.import_module("tenantry.errors")
    page = (CHECKOUT / "docs" / "errors.md").read_text()
    names = [
        name
        for name, thing in vars(errors).items()
        if inspect.isclass(thing)
        and issubclass(thing, errors.TenantryError)
        and thing.__module__ == errors.__name__
    ]
    missing = [name for name in names if not re.search(rf"\b{name}\b", page)]
    assert not missing


@pytest.mark.newest  # reads files only
def test_every_event_stands_on_some_page() -> None:
    events = importlib.import_module("tenantry.events")
    names = [
        name
        for name, thing in vars(events).items()
        if inspect.isclass(thing)
        and thing.__module__ == events.__name__
        and not name.startswith("_")
    ]
    missing = [name for name in names if not on_some_page(name)]
    assert not missing, f"no page mentions {missing}"
