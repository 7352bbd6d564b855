"""What commands show: tables and progress for people, one JSON document for programs.

Results go to standard output, progress and complaints to standard error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..fleet import OnOutcome, Outcome, Report

__all__ = ["brief", "document", "finish", "progress", "report", "say", "summary", "table"]

_STYLES = {"done": "green", "unchanged": "dim", "failed": "bold red", "skipped": "yellow"}
_LINE_EVERY_SECONDS = 5.0
_SLOW_ONES = 3


def document(content: Any) -> None:
    """One JSON document on standard output; what JSON does not know is shown as text."""
    click.echo(json.dumps(content, indent=2, default=str, ensure_ascii=False))


def say(message: str) -> None:
    """One line for people, on standard error."""
    click.echo(message, err=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "") -> None:
    """A table on standard output; plain columns where that is no terminal."""
    console = _console()
    if not console.is_terminal:
        texts = [[_cell(value) for value in row] for row in rows]
        widths = [
            max([len(column), *(len(row[index]) for row in texts)])
            for index, column in enumerate(columns)
        ]
        for row in [list(columns), *texts]:
            line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            click.echo(line.rstrip())
        return
    shown = Table(title=title or None, header_style="bold", box=None, pad_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for values in rows:
        shown.add_row(*(_styled(value) for value in values))
    console.print(shown)


@contextmanager
def progress(verb: str, total: int, *, quiet: bool = False) -> Iterator[OnOutcome]:
    """Shows how far the work is: a bar with ETA on a terminal, a line now and then in a log."""
    if quiet or total == 0:
        yield lambda _outcome: None
        return
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        yield from _bar(console, verb, total)
    else:
        yield from _lines(verb, total)


def _bar(console: Console, verb: str, total: int) -> Iterator[OnOutcome]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
    )
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(verb, total=total, rate="", last="")
        failed = 0

        def on_outcome(outcome: Outcome) -> None:
            nonlocal failed
            failed += outcome.status == "failed"
            if outcome.status == "failed":
                bar.console.print(
                    f"[red]{escape(outcome.tenant_id)}: {escape(outcome.error or '')}"
                )
            rate = (bar.tasks[0].completed + 1) / max(time.monotonic() - began, 0.001)
            last = f"{failed} failed" if failed else outcome.tenant_id
            bar.update(task, advance=1, rate=f"{rate:.0f}/s", last=escape(last))

        yield on_outcome


def _lines(verb: str, total: int) -> Iterator[OnOutcome]:
    began = last_line = time.monotonic()
    done = failed = 0

    def on_outcome(outcome: Outcome) -> None:
        nonlocal done, failed, last_line
        done += 1
        now = time.monotonic()
        if outcome.status == "failed":
            failed += 1
            say(f"{verb}: {outcome.tenant_id} failed: {outcome.error}")
        if now - last_line >= _LINE_EVERY_SECONDS:
            last_line = now
            rate = done / (now - began)
            eta = (total - done) / rate
            say(f"{verb}: {done}/{total}, {failed} failed, {rate:.1f}/s, ETA {eta:.0f} s")

    yield on_outcome


def report(verb: str, result: Report, *, as_json: bool, detail: str = "value") -> None:
    """The outcome of every tenant, and their counts; ends the command with its exit code."""
    counts = {
        status: len(result.of(status)) for status in ("done", "unchanged", "failed", "skipped")
    }
    if as_json:
        document(
            {
                "verb": verb,
                "ok": result.ok,
                **counts,
                "stopped": result.stopped,
                "seconds": round(result.seconds, 3),
                "results": [outcome.as_dict() for outcome in result.outcomes],
            }
        )
    else:
        rows = [
            [each.tenant_id, each.status, f"{each.seconds:.2f} s", each.error or brief(each.value)]
            for each in sorted(result.outcomes, key=lambda each: each.tenant_id)
        ]
        if rows:
            table(["tenant", "status", "took", detail], rows)
        summary(verb, result)
    finish(result.exit_code)


def summary(verb: str, result: Report) -> None:
    """Counts, and the slow ones by name, on standard error."""
    counts = [
        f"{len(result.of(status))} {status}"
        for status in ("done", "unchanged", "failed", "skipped")
        if result.of(status)
    ]
    line = f"{verb}: {', '.join(counts) or 'no tenant selected'} in {result.seconds:.1f} s"
    slow = sorted(result.of("done"), key=lambda each: -each.seconds)[:_SLOW_ONES]
    if len(result.outcomes) > _SLOW_ONES and slow and slow[0].seconds >= 1.0:
        line += "; slowest " + ", ".join(f"{each.tenant_id} {each.seconds:.1f} s" for each in slow)
    if result.stopped == "canary":
        line += "; stopped: the canary failed, nobody else was begun. --canary 0 goes without one"
    elif result.stopped == "failures":
        line += "; stopped: too many failed. The same command goes on where it stopped"
    elif result.stopped:
        line += f"; {result.stopped}. The same command goes on where it stopped"
    say(line)


def finish(exit_code: int) -> None:
    """End the command with this exit code, if it is none of success."""
    if exit_code:
        raise click.exceptions.Exit(exit_code)


def brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key} {brief(part)}"
            if not isinstance(part, bool)
            else (key if part else f"not {key}")
            for key, part in value.items()
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(brief(part) for part in value)
    return _cell(value)


def _cell(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())


def _styled(value: Any) -> str:
    text = escape(_cell(value))
    style = _STYLES.get(text)
    return f"[{style}]{text}[/]" if style else text


def _console() -> Console:
    return Console(file=sys.stdout, highlight=False)
