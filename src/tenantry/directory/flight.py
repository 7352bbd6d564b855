"""Single flight: many ask the same thing at once, one of them does the work."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

__all__ = ["Flights"]

T = TypeVar("T")

# One that fails hands over to one that waits. After the second failure all who wait share it:
# with a server away, 500 requests must not try one after the other.
_FAILURES = 2


class _Flight:
    __slots__ = ("answer", "done", "error", "failures", "turn", "users")

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.users = 0
        self.done = False
        self.answer: Any = None
        self.failures = 0
        self.error: Exception | None = None


class Flights:
    """Work that is under way, by key. Safe from any thread; not for work that asks for itself.

    Who holds the flight's turn does the work, and whoever gets the turn after finds the answer.
    So a leader that is torn out of it (a signal, a killed greenlet) hands over by leaving.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight] = {}

    def share(self, key: Hashable, work: Callable[[], T]) -> T:
        """What *work* returns, or what it returned for somebody who asked at the same time."""
        with self._lock:
            flight = self._flights.setdefault(key, _Flight())
            flight.users += 1
        try:
            with flight.turn:
                if flight.done:
                    return cast(T, flight.answer)
                if flight.error is not None and flight.failures >= _FAILURES:
                    raise _again(flight.error)
                return self._lead(key, flight, work)
        finally:
            with self._lock:
                flight.users -= 1
                if flight.users == 0:
                    self._land(key, flight)

    def _lead(self, key: Hashable, flight: _Flight, work: Callable[[], T]) -> T:
        try:
            answer = work()
        except Exception as error:
            flight.failures += 1
            flight.error = error
            if flight.failures >= _FAILURES:
                with self._lock:
                    self._land(key, flight)
            raise
        flight.answer, flight.done = answer, True
        # Nobody joins from now on, or an old answer could be handed down for ever.
        with self._lock:
            self._land(key, flight)
        return answer

    def _land(self, key: Hashable, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def _again(error: Exception) -> Exception:
    """The error for another thread: its own object, for a traceback belongs to one thread."""
    try:
        return copy.copy(error).with_traceback(None)
    except Exception:  # an exception of somebody else's that cannot be copied
        return error
