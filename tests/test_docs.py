"""Every Python block of the README, the docs and the docstrings runs.

A document's blocks run in order, in one namespace and one event loop, in an empty directory of
their own. ``await`` may stand at the top. A TOML block whose first line is ``# name.toml`` is
written there under that name. A block is skipped by a comment before it, with its reason::

    <!-- skip: next "needs a PostgreSQL" -->
"""

from __future__ import annotations

import ast
import asyncio
import doctest
import gc
import inspect
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from unittest import SkipTest

import pytest
from sybil import Document, Example
from sybil.document import PythonDocStringDocument
from sybil.evaluators.python import pad
from sybil.parsers import markdown, rest

CHECKOUT = Path(__file__).parents[1]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
MODULES = sorted((CHECKOUT / "src" / "tenantry").rglob("*.py"))

DOCTEST_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
TOML_NAME = re.compile(r"# ([\w.-]+\.toml)\n")
SKIP = re.compile(r"skip: (?:next|start)\b(?P<reason>.*)")
BLOCK = re.compile(r"^( *)[^\n]*::\n\n((?:\1 +[^\n]*\n|\s*\n)+)", re.MULTILINE)


def run_python(example: Example) -> None:
    """Run a block; sybil's own evaluator knows no ``await`` at the top."""
    source = pad(example.parsed, example.line + example.parsed.line_offset)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(source, example.path, "exec", flags=flags, dont_inherit=True)
    outcome = eval(code, example.namespace)
    if inspect.iscoroutine(outcome):
        loop = example.namespace["__loop__"]
        assert isinstance(loop, asyncio.AbstractEventLoop)
        loop.run_until_complete(outcome)


def write_toml(example: Example) -> None:
    if name := TOML_NAME.match(example.parsed):
        Path(name[1]).write_text(example.parsed)


def parsed_page(path: Path) -> Document:
    return Document.parse(
        str(path),
        markdown.CodeBlockParser(language="python", evaluator=run_python),
        markdown.CodeBlockParser(language="toml", evaluator=write_toml),
        markdown.SkipParser(),
    )


def parsed_module(path: Path) -> Document:
    return PythonDocStringDocument.parse(
        str(path),
        markdown.CodeBlockParser(language="python", evaluator=run_python),
        rest.CodeBlockParser(language="python", evaluator=run_python),
        rest.DocTestParser(optionflags=DOCTEST_FLAGS),
        rest.SkipParser(),
    )


def documents() -> Iterator[object]:
    for paths, parse in ((PAGES, parsed_page), (MODULES, parsed_module)):
        for path in paths:
            if path.exists() and any(parse(path)):
                yield pytest.param(path, id=str(path.relative_to(CHECKOUT)))


@pytest.fixture
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.newest  # the documentation speaks of one version of each thing
@pytest.mark.usefixtures("own_directory")
# A block is written for its reader, and leaves engines to the end of the process.
@pytest.mark.filterwarnings("ignore:unclosed database in <sqlite3:ResourceWarning")
@pytest.mark.parametrize("path", list(documents()))
def test_every_python_block_runs(path: Path) -> None:
    document = parsed_module(path) if path.suffix == ".py" else parsed_page(path)
    loop = asyncio.new_event_loop()
    document.namespace["__loop__"] = loop
    try:
        for example in document:
            try:
                example.evaluate()
            except SkipTest as reason:
                print(f"{path.name}, line {example.line}, skipped: {reason}")
    finally:
        document.namespace.clear()
        loop.close()
        gc.collect()


@pytest.mark.newest  # reads files only
def test_a_skipped_block_gives_its_reason() -> None:
    bare = [
        f"{path.relative_to(CHECKOUT)}: {skip[0]}"
        for path in [*PAGES, *MODULES]
        for skip in SKIP.finditer(path.read_text())
        if not re.search(r"""["'].{8,}["']""", skip["reason"])
    ]
    assert not bare


@pytest.mark.newest  # reads files only
def test_no_python_hides_in_a_plain_block_of_a_docstring() -> None:
    """What stands after ``::`` does not run, so it must not be Python."""
    hidden = [
        f"{path.relative_to(CHECKOUT)}: {text.split()[0]}"
        for path in MODULES
        for text in plain_blocks(ast.parse(path.read_text()))
        if is_python(text)
    ]
    assert not hidden


def plain_blocks(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for block in BLOCK.finditer((ast.get_docstring(node) or "") + "\n"):
                if ".. code-block::" not in block[0]:
                    yield textwrap.dedent(block[2])


def is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True
