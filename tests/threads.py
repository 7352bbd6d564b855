"""Work in threads that start together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_threads(count: int, function: Callable[[], T]) -> list[T]:
    """What *function* gives in each of so many threads; an error of one is raised at the end."""
    barrier = threading.Barrier(count)

    def run() -> T:
        barrier.wait()
        return function()

    with ThreadPoolExecutor(count) as executor:
        futures = [executor.submit(run) for _ in range(count)]
    return [each.result() for each in futures]
