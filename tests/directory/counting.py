"""Real directories that count, wait or fail, to watch what a cache asks them."""

from __future__ import annotations

import threading
import time
from collections import Counter

from tenantry import Placement, Tenant
from tenantry.directory import MappingDirectory


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Counting(MappingDirectory):
    """Counts its questions; each takes *seconds* and fails as often as *failures* say."""

    def __init__(self, *tenant_ids: str, seconds: float = 0) -> None:
        super().__init__(tenant(each) for each in tenant_ids)
        self.seconds = seconds
        self.asked: Counter[str] = Counter()
        self.reached: list[object] = []
        self.failures: list[BaseException] = []
        self._count_lock = threading.Lock()

    def _ask(self, what: str, value: object = None) -> None:
        with self._count_lock:
            self.asked[what] += 1
            self.reached.append(value)
            failure = self.failures.pop(0) if self.failures else None
        time.sleep(self.seconds)
        if failure is not None:
            raise failure

    def get(self, tenant_id: str) -> Tenant:
        self._ask("get", tenant_id)
        return super().get(tenant_id)

    def find(self, identifier: str) -> Tenant:
        self._ask("find", identifier)
        return super().find(identifier)


class Versioned(Counting):
    def version(self) -> int:
        self._ask("version")
        return super().version()


class Unversioned(Counting):
    version = None  # type: ignore[assignment]


def tenant(tenant_id: str, **values: object) -> Tenant:
    return Tenant(tenant_id, Placement("main", database=f"{tenant_id}.db"), **values)  # type: ignore[arg-type]
