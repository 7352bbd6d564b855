"""A planted password, and the places in which it must not turn up."""

from __future__ import annotations

import contextlib
import copy
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

CANARY = "kanari3nv0gel"
_TESTS = str(Path(__file__).parent)


def sightings(thing: object) -> list[str]:
    """Where the canary shows in *thing*, in what it came from and in the frames that it holds."""
    return [where for where, text in _shown(thing) if CANARY in text]


def _shown(thing: object) -> Iterator[tuple[str, str]]:
    yield "repr", repr(thing)
    yield "str", str(thing)
    yield "format", f"{thing:}"
    yield "percent", "%s %r" % (thing, thing)  # noqa: UP031 - one more way
    with contextlib.suppress(Exception):
        yield "pickle", repr(pickle.dumps(thing))
    with contextlib.suppress(Exception):
        yield "copy", repr(vars(copy.deepcopy(thing)))
    with contextlib.suppress(TypeError):
        yield "vars", repr(vars(thing))
    for each in _chain(thing) if isinstance(thing, BaseException) else ():
        yield f"{type(each).__name__}.str", str(each)
        yield f"{type(each).__name__}.args", repr(each.args)
        yield f"{type(each).__name__}.vars", repr(vars(each))
        yield "traceback", "".join(traceback.format_exception(each))
        for frame, values in _frames(each.__traceback__):
            yield f"locals of {frame}", values


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        todo += [each.__cause__, each.__context__, getattr(each, "orig", None)]


def _frames(trace: TracebackType | None) -> Iterator[tuple[str, str]]:
    """The frames outside the tests, with their variables as an error reporter shows them."""
    while trace is not None:
        frame = trace.tb_frame
        if not frame.f_code.co_filename.startswith(_TESTS):
            shown = []
            for name, value in frame.f_locals.items():
                with contextlib.suppress(Exception):
                    shown.append(f"{name}={value!r}")
            yield f"{frame.f_code.co_filename}:{frame.f_code.co_name}", "\n".join(shown)
        trace = trace.tb_next
