"""Items in line for the threads that work on them: who may be begun next, and whether any may."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

__all__ = ["Line"]

T = TypeVar("T")


class Line(Generic[T]):
    """Items that threads take until there are no more, or until it is stopped.

    At most *per_group* bundles with the same ``group(item)`` are out at a time (``None``: any
    number), and groups take turns. A bundle is one item, or up to ``size(items left in the
    group)`` neighbours with the same ``alike(item)``; ``None`` is like nobody. When more than
    *failure_budget* failures were reported, or *keep_on* answers false, nothing more is given.
    """

    def __init__(
        self,
        items: Iterable[T],
        *,
        group: Callable[[T], str] | None = None,
        per_group: int | None = None,
        alike: Callable[[T], Hashable | None] = lambda _: None,
        size: Callable[[int], int] = lambda _: 1,
        failure_budget: int | None = None,
        keep_on: Callable[[], bool] | None = None,
    ) -> None:
        self._waiting: dict[str, deque[T]] = {}
        for item in items:
            self._waiting.setdefault(group(item) if group else "", deque()).append(item)
        self._out = dict.fromkeys(self._waiting, 0)
        self._turn = deque(self._waiting)
        self._per_group = per_group
        self._alike = alike
        self._size = size
        self._budget = failure_budget
        self._keep_on = keep_on
        self._failures = 0
        self._changed = threading.Condition()
        #: Why no more is given: ``failures``, ``paused``, ``error``; ``None``: it was not stopped.
        self.stopped: str | None = None

    @property
    def left(self) -> list[T]:
        """The items that were not begun."""
        return [item for waiting in self._waiting.values() for item in waiting]

    def take(self) -> tuple[str, list[T]] | None:
        """A group and a bundle of it, which :meth:`done` must hear of; ``None``: no more.

        Waits while others are out who may hand something back, or whose group is full.
        """
        with self._changed:
            while self.stopped is None:
                name = self._next()
                if name is not None:
                    if self._keep_on is not None and not self._keep_on():
                        self._stop("paused")
                        break
                    self._out[name] += 1
                    return name, self._bundle(self._waiting[name])
                if not any(self._out.values()):
                    break
                self._changed.wait()
            return None

    def done(self, name: str, failures: int = 0, back: Sequence[T] = ()) -> None:
        """A bundle of group *name* came to its end; *back* are those of it that were not begun."""
        with self._changed:
            self._out[name] -= 1
            self._waiting[name].extendleft(reversed(back))
            self._failures += failures
            if self._budget is not None and self._failures > self._budget:
                self._stop("failures")
            self._changed.notify_all()

    def stop(self) -> None:
        """Give nothing more: something went wrong that ends the whole work."""
        with self._changed:
            self._stop("error")

    def _stop(self, why: str) -> None:
        self.stopped = self.stopped or why
        self._changed.notify_all()

    def _next(self) -> str | None:
        for _ in range(len(self._turn)):
            self._turn.rotate(-1)
            name = self._turn[0]
            if self._waiting[name] and (
                self._per_group is None or self._out[name] < self._per_group
            ):
                return name
        return None

    def _bundle(self, waiting: deque[T]) -> list[T]:
        bundle = [waiting.popleft()]
        kind = self._alike(bundle[0])
        if kind is not None:
            size = self._size(len(waiting) + 1)
            while waiting and len(bundle) < size and self._alike(waiting[0]) == kind:
                bundle.append(waiting.popleft())
        return bundle
