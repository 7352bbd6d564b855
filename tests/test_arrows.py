"""Who may import whom: arrows point down only, and third parties stay in their place.

The tables are the rule of the project; a new module or arrow changes them in the open.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tenantry"

# From the bottom up. A part imports from lower layers, and from its own only as drawn below.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "tenant", "servers", "naming", "events"}),  # values
    frozenset({"context"}),  # current
    frozenset({"resolvers", "directory", "isolation", "backends"}),  # decisions
    frozenset({"routing", "orm"}),  # machinery
    frozenset({"tenancy", "cache"}),  # wiring
    frozenset({"fleet"}),  # every tenant
    frozenset({"integrations", "cli", "console", "testing", "demo", "__main__"}),  # edges
)
VALUES, EDGES = LAYERS[0], LAYERS[-1]
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}

BESIDE = {
    ("isolation", "backends"),
    ("orm", "routing"),
    ("__main__", "cli"),
    ("cli", "demo"),
    # A framework may bring a command of its own.
    ("cli", "integrations"),
    # And a framework's own program has the commands as a group.
    ("integrations", "cli"),
    # The demonstration is a web application on a server that it starts.
    ("demo", "integrations"),
    ("demo", "testing"),
    *((one, other) for one in VALUES for other in VALUES if one != other),
}

# Upward or sideways, so only inside a function or for the type checker.
LATE = {
    # Tenancy.map and its kin are doors to the fleet.
    ("tenancy", "fleet"),
}

# Downward, and yet not allowed.
NEVER = {
    ("directory", "context"): "a directory never asks who is current",
    ("routing", "resolvers"): "the pool never asks who is asking",
    ("integrations", "fleet"): "requests and jobs do not work on the whole fleet",
}

# Between the modules of integrations/.
INTEGRATIONS_BESIDE = {
    ("fastapi", "starlette"),
    ("starlette", "asgi"),
    ("fastapi", "asgi"),
    ("flask", "wsgi"),
    ("flask_sqlalchemy", "flask"),
    ("flask_sqlalchemy_lite", "flask"),
    ("flask_migrate", "flask"),
}

# Whoever gives flask's Tenantry an extension has it installed.
INTEGRATIONS_LATE = {("flask", "flask_sqlalchemy"), ("flask", "flask_sqlalchemy_lite")}

# Third parties of a part, or of one module of it. Whoever is not listed has SQLAlchemy alone.
THIRD_PARTIES: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "tenant": frozenset(),
    "naming": frozenset(),
    "events": frozenset(),
    "context": frozenset(),
    "resolvers": frozenset(),
    "resolvers.claims": frozenset({"jwt"}),
    "directory": frozenset({"sqlalchemy", "tomli"}),
    "routing.send": frozenset({"psycopg"}),
    "fleet.locks": frozenset({"sqlalchemy", "filelock"}),
    "fleet.migrate": frozenset({"sqlalchemy", "alembic"}),
    "fleet.alembic_env": frozenset({"sqlalchemy", "alembic"}),
    # An application like its users': it has a framework and models of its own.
    "demo": frozenset({"sqlalchemy", "flask", "werkzeug"}),
    "cli": frozenset({"sqlalchemy", "click", "rich"}),
    "testing": frozenset({"sqlalchemy", "pytest"}),
    "integrations.flask": frozenset({"sqlalchemy", "flask", "werkzeug"}),
    "integrations.flask_sqlalchemy": frozenset({"sqlalchemy", "flask", "flask_sqlalchemy"}),
    "integrations.flask_sqlalchemy_lite": frozenset(
        {"sqlalchemy", "flask", "flask_sqlalchemy_lite"}
    ),
    "integrations.flask_migrate": frozenset({"sqlalchemy", "flask", "flask_migrate", "alembic"}),
    "integrations.starlette": frozenset({"sqlalchemy", "starlette"}),
    "integrations.fastapi": frozenset({"sqlalchemy", "fastapi", "starlette"}),
    "integrations.celery": frozenset({"celery", "kombu"}),
    "integrations.superset": frozenset(
        {"sqlalchemy", "superset", "flask", "werkzeug", "jinja2", "jwt", "httpx", "redis"}
    ),
}

# sqlalchemy.orm: sessions and models are the business of orm/; edges meet their users' own.
ORM_PARTS = frozenset({"orm", "integrations", "cli", "testing", "demo"})


@dataclass(frozen=True)
class Import:
    """One import statement: *module* is the importer below ``tenantry``, *target* whole.

    *late* if it does not run when the module is imported.
    """

    module: str
    target: str
    name: str | None
    line: int
    late: bool

    @property
    def part(self) -> str:
        return self.module.partition(".")[0]

    @property
    def inner(self) -> str | None:
        """The imported module below ``tenantry``, with a name that is itself a module."""
        if self.target == "tenantry":
            return self.name if self.name and is_module(self.name) else ""
        if not self.target.startswith("tenantry."):
            return None
        below = self.target.removeprefix("tenantry.")
        longer = f"{below}.{self.name}"
        return longer if self.name and is_module(longer) else below

    def __str__(self) -> str:
        what = f"{self.target}.{self.name}" if self.name else self.target
        return f"src/tenantry/{self.module.replace('.', '/')}, line {self.line}: {what}"


def is_module(dotted: str) -> bool:
    path = SOURCE / dotted.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports_of(path: Path) -> Iterator[Import]:
    relative = path.relative_to(SOURCE).with_suffix("")
    module = ".".join(part for part in relative.parts if part != "__init__")
    package = ("tenantry", *relative.parts[:-1])
    for node, late in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, None, node.lineno, late)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(module, target, alias.name, node.lineno, late)
        elif (
            # What is imported by its name is imported all the same.
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and isinstance(node.args[0], ast.Constant)
            and not str(node.args[0].value).startswith(".")
        ):
            yield Import(module, str(node.args[0].value), None, node.lineno, late)


def statements(node: ast.AST, late: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Everything below *node*, and whether it waits for a call or is for the type checker only."""
    for child in ast.iter_child_nodes(node):
        waits = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        )
        yield child, late or waits
        yield from statements(child, late or waits)


ALL = [found for path in sorted(SOURCE.rglob("*.py")) for found in imports_of(path)]
INNER = [found for found in ALL if found.inner is not None]
# The public face imports from everywhere; that is what it is.
ARROWS = [found for found in INNER if found.module != "" and found.inner]


def target_part(found: Import) -> str:
    return (found.inner or "").partition(".")[0]


def told(found: list[Import]) -> str:
    return "\n".join(str(one) for one in found)


def test_every_part_has_its_layer() -> None:
    parts = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in SOURCE.rglob("*.py")}
    assert parts - {"__init__"} <= set(RANK)


def test_arrows_point_down_only() -> None:
    wrong = [
        found
        for found in ARROWS
        if found.part != target_part(found)
        and RANK[target_part(found)] >= RANK[found.part]
        and (found.part, target_part(found)) not in BESIDE
        and not (found.late and (found.part, target_part(found)) in LATE)
    ]
    assert not wrong, told(wrong)


@pytest.mark.parametrize(("arrow", "reason"), NEVER.items())
def test_some_arrows_are_never_drawn(arrow: tuple[str, str], reason: str) -> None:
    wrong = [found for found in ARROWS if (found.part, target_part(found)) == arrow]
    assert not wrong, f"{reason}:\n{told(wrong)}"


def test_edges_use_the_public_face_like_any_user() -> None:
    """``tenantry`` and what is directly below it; deeper is inside. A missing seam is added."""
    wrong = [
        found
        for found in ARROWS
        if found.part in EDGES
        and found.part != target_part(found)
        and "." in (found.inner or "")
        # Between edges the arrows drawn above are enough.
        and target_part(found) not in EDGES
    ]
    assert not wrong, told(wrong)


def test_integrations_do_not_know_each_other_but_for_those_drawn() -> None:
    wrong = []
    for found in ARROWS:
        inner = found.inner or ""
        if found.part == "integrations" == target_part(found) and "." in found.module:
            one, other = found.module.split(".")[1], [*inner.split("."), ""][1]
            drawn = INTEGRATIONS_BESIDE | (INTEGRATIONS_LATE if found.late else set())
            if other and one != other and (one, other) not in drawn:
                wrong.append(found)
    assert not wrong, told(wrong)


def allowed_third_parties(module: str) -> frozenset[str]:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        listed = THIRD_PARTIES.get(".".join(parts[:length]))
        if listed is not None:
            return listed
    return frozenset({"sqlalchemy"})


def test_third_parties_stay_in_their_modules() -> None:
    # typeshed is no package: type checkers carry it.
    own = sys.stdlib_module_names | {"tenantry", "tomllib", "_typeshed"}
    wrong = [
        found
        for found in ALL
        if (top := found.target.partition(".")[0]) not in own
        and top not in allowed_third_parties(found.module)
    ]
    assert not wrong, told(wrong)


def test_sqlalchemy_orm_stays_in_orm() -> None:
    wrong = [
        found
        for found in ALL
        if (
            found.target.startswith("sqlalchemy.orm")
            or (found.target, found.name) == ("sqlalchemy", "orm")
        )
        and found.part not in ORM_PARTS
    ]
    assert not wrong, told(wrong)


def test_importing_tenantry_brings_in_sqlalchemy_and_nothing_else_of_third_parties() -> None:
    asked = subprocess.run(
        [sys.executable, "-I", "-c", THIRD_PARTIES_AFTER_IMPORT],
        capture_output=True,
        text=True,
        check=True,
    )
    # The others are what SQLAlchemy itself imports where they are installed.
    assert set(asked.stdout.split()) - {"greenlet", "typing_extensions"} == {"sqlalchemy"}


THIRD_PARTIES_AFTER_IMPORT = """
import sys

before = set(sys.modules)
import tenantry

for name in sorted(set(sys.modules) - before):
    place = getattr(sys.modules[name], "__file__", None) or ""
    if "." not in name and "site-packages" in place:
        print(name)
"""
