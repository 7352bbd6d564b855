"""What happened, as frozen records, and how to listen.

A listener is any callable that takes one event. It runs where the event happens, so it must
be quick; what it raises is logged and goes no further. Events carry tenant ids, never
passwords, URLs or row values.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "ConnectionClosed",
    "ConnectionOpened",
    "Event",
    "FannedOut",
    "Refused",
    "SharedEntered",
    "TenantChanged",
    "TenantEntered",
    "TenantLeft",
    "WaitedForConnection",
    "emit",
    "listen",
    "listening",
]

_logger = logging.getLogger("tenantry")


@dataclass(frozen=True)
class Event:
    """Something that happened to a tenant; ``None`` where no tenant was involved."""

    tenant_id: str | None


@dataclass(frozen=True)
class TenantEntered(Event):
    """A block of the tenant began."""


@dataclass(frozen=True)
class TenantLeft(Event):
    """A block of the tenant ended."""


@dataclass(frozen=True)
class SharedEntered(Event):
    """A block without a tenant began, on purpose."""


@dataclass(frozen=True)
class Refused(Event):
    """A request, connection or object was refused; *reason* names the error class."""

    reason: str


@dataclass(frozen=True)
class FannedOut(Event):
    """Many tenants are read by one statement; *permission* says who or what allows it."""

    permission: str
    tenant_ids: tuple[str, ...]


@dataclass(frozen=True)
class TenantChanged(Event):
    """The directory learned of a new state or placement of the tenant."""

    state: str


@dataclass(frozen=True)
class ConnectionOpened(Event):
    """A database connection was opened in *seconds*."""

    server: str
    seconds: float


@dataclass(frozen=True)
class ConnectionClosed(Event):
    """A database connection was closed: ``evicted``, ``doubt``, ``generation``, ``disposed``..."""

    server: str
    reason: str


@dataclass(frozen=True)
class WaitedForConnection(Event):
    """Somebody waited *seconds* for a connection, because the budget was used up."""

    server: str
    seconds: float


Listener = Callable[[Event], None]

_lock = threading.Lock()
_listeners: tuple[Listener, ...] = ()


def listening() -> bool:
    """Whether anybody listens; lets hot code skip building an event."""
    return bool(_listeners)


def listen(listener: Listener) -> Callable[[], None]:
    """Call *listener* with every event from now on; the returned function ends that."""
    global _listeners
    with _lock:
        _listeners = (*_listeners, listener)

    def stop() -> None:
        global _listeners
        with _lock:
            _listeners = tuple(each for each in _listeners if each is not listener)

    return stop


def emit(event: Event) -> None:
    """Hand *event* to every listener."""
    for listener in _listeners:
        try:
            listener(event)
        except Exception:  # a broken listener must not break the work it watches
            _logger.exception("an event listener failed on %s", type(event).__name__)
