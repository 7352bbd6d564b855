"""What surrounds the package keeps its promises too."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
LOCKS = sorted((CHECKOUT / "requirements").glob("*.txt"))
PAGES = [
    CHECKOUT / "README.md",
    CHECKOUT / "CHANGELOG.md",
    *sorted((CHECKOUT / "docs").rglob("*.md")),
]
FRAGMENT = re.compile(r"(\d+|\+[\w-]+)\.(security|removed|deprecated|added|changed|fixed)\.md")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")

pytestmark = pytest.mark.newest  # reads files only


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.name))
def test_a_lock_has_hashes_and_no_addresses(lock: Path) -> None:
    text = lock.read_text()
    for line in text.splitlines():
        assert re.fullmatch(
            r"\s*--hash=sha256:[0-9a-f]{64}( \\)?|[A-Za-z0-9._\[\],-]+==[^/@]+ \\|#.*|", line
        ), line
    assert "://" not in text
    assert not re.search(r"^ *(-i|-f|--index|--extra-index|--find-links)", text, re.MULTILINE)


def test_what_a_lock_holds_is_installed_and_nothing_beside_it() -> None:
    """With its dependencies, pip refuses a lock once one of them has a newer version."""
    lines = [
        line
        for file in (".ci/venv", "examples/superset/environment.py", "examples/superset/Dockerfile")
        for line in (CHECKOUT / file).read_text(encoding="utf-8").splitlines()
        if "--require-hashes" in line
    ]
    assert len(lines) == 3
    assert all("--no-deps" in line for line in lines)


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len((CHECKOUT / "README.md").read_text().splitlines()) < 150


def test_ci_runs_what_everybody_runs() -> None:
    script = CHECKOUT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()


def test_the_makefile_explains_each_target() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    for target in ("demo", "test", "lint", "types", "docs", "bench", "test-oldest", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        assert f"make {target} " in makefile or f"make {target}:" in makefile


def test_a_change_has_a_fragment_with_a_full_sentence() -> None:
    for path in (CHECKOUT / "changes").iterdir():
        if path.name in (".gitignore", "README.md"):
            continue
        assert FRAGMENT.fullmatch(path.name), path.name
        text = path.read_text().strip()
        assert text[0].isupper()
        assert text.endswith(".")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_a_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_package_says_that_it_is_typed() -> None:
    assert (CHECKOUT / "src" / "tenantry" / "py.typed").exists()
