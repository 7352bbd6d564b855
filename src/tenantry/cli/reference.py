"""The page ``docs/cli.md``, written from the commands: ``python -m tenantry.cli.reference``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from .program import COMMANDS, tenantry

__all__ = ["page"]

_HEAD = """\
# Command line

`pip install '.[cli]'` in a clone brings the program `tenantry` (and `python -m tenantry`). It works
on the application that `TENANTRY_APP=module:tenancy`, or `[tool.tenantry]` in `pyproject.toml`,
names, or on a file of servers and tenants given by `--file`. Every command is a function of
`tenantry.fleet`: see [the fleet](fleet.md).

A Flask application has the same commands as `flask tenants list`, `flask tenants migrate` and so
on: see [Flask](flask.md). `tenants_group` gives them to any other program that is built with click:

```text
from tenantry.cli.main import tenants_group

shop.add_command(tenants_group(lambda: tenancy))
```

It ends with 0 if all is done, with 1 if some tenants failed, with 2 if it was used wrongly. Results
go to standard output, progress and complaints to standard error; `--json` prints one document.

This page is written by `python -m tenantry.cli.reference`.
"""

#: Commands with a page of their own.
_ELSEWHERE = {"demo": "demo.md", "superset": "superset.md"}


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_options("tenantry", tenantry, None), *_commands()]).rstrip() + "\n"


def _commands() -> Iterator[str]:
    context = click.Context(tenantry, info_name="tenantry")
    for name, (_, _, summary) in COMMANDS.items():
        if name in _ELSEWHERE:
            yield f"## tenantry {name}\n\n{summary} See [its page]({_ELSEWHERE[name]}).\n"
            continue
        command = tenantry.get_command(context, name)
        assert command is not None
        yield from _options(f"tenantry {name}", command, context)
        if isinstance(command, click.Group):
            within = click.Context(command, info_name=name, parent=context)
            for each in command.list_commands(within):
                inner = command.get_command(within, each)
                assert inner is not None
                yield from _options(f"tenantry {name} {each}", inner, within)


def _options(name: str, command: click.Command, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(
        command,
        info_name=name.rpartition(" ")[2],
        parent=parent,
        help_option_names=["-h", "--help"],
    )
    yield f"## {name}\n"
    if parent is not None:
        words = " ".join(command.collect_usage_pieces(context))
        yield f"`{name} {words}`\n"
        yield f"{_paragraphs(command.help or '')}\n"
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            rows.append((record[0], record[1]))
    bar = "\\|"
    if rows:
        yield "| option | |\n|---|---|"
        for option, text in rows:
            cell = " ".join(text.split()).replace("|", "\\|")
            yield f"| `{option.replace('|', bar)}` | {cell} |"
        yield ""


def _paragraphs(text: str) -> str:
    paragraphs = [" ".join(each.split()) for each in text.split("\n\n")]
    return "\n\n".join(each for each in paragraphs if each).replace("``", "`")


if __name__ == "__main__":
    click.echo(page(), nl=False)
