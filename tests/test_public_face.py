"""The public face is honest: every name exists, explains itself, and stands on some page."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

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


def public_names() -> Iterator[object]:
    for module in public_modules():
        face = importlib.import_module(module)
        for name in getattr(face, "__all__", []):
            yield pytest.param(face, name, id=f"{module}.{name}")


@cache
def pages() -> str:
    paths = [CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md")]
    return "\n".join(path.read_text() for path in paths if path.exists())


@pytest.mark.parametrize("module", public_modules())
def test_what_is_public_is_listed_once_and_in_order(module: str) -> None:
    listed = getattr(importlib.import_module(module), "__all__", None)
    assert listed is not None, f"{module} lists no __all__"
    assert list(listed) == sorted(set(listed))


@pytest.mark.parametrize(("face", "name"), list(public_names()))
def test_a_public_name_exists_and_explains_itself(face: ModuleType, name: str) -> None:
    thing = getattr(face, name)
    if not (inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing)):
        return  # a constant or an alias is explained where it is declared
    # A class without its own docstring would show that of its base.
    assert vars(thing).get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing)
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        inner = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if not member.startswith("_") and (
            inspect.isfunction(inner) or isinstance(inner, property)
        ):
            assert inspect.getdoc(getattr(thing, member)), f"{name}.{member} has no docstring"


@pytest.mark.newest  # reads files only
@pytest.mark.parametrize(("face", "name"), list(public_names()))
def test_a_public_name_stands_on_some_page(face: ModuleType, name: str) -> None:
    assert re.search(rf"\b{re.escape(name)}\b", pages()), f"no page mentions {name}"


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
    missing = [name for name in names if not re.search(rf"\b{name}\b", pages())]
    assert not missing
