"""Which connection? One engine, many tenants: buckets, budget and guard."""

from .engine import RoutedConnection, RoutedEngine, Router, tenant_of_execution
from .limits import Budget
from .pool import RoutedPool

__all__ = [
    "Budget",
    "RoutedConnection",
    "RoutedEngine",
    "RoutedPool",
    "Router",
    "tenant_of_execution",
]
