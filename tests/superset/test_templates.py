"""``{{ tenant() }}`` in a query keeps a cache apart by itself, where nothing else does."""

from __future__ import annotations

import secrets
from pathlib import Path

from tests.superset.conftest import Running, ran_inside


def test_the_tenant_in_a_query_is_a_part_of_its_key(ours: Running) -> None:
    """With the prefix and the security manager's key taken away, a plain query does leak."""
    found = ran_inside(
        ours,
        Path(__file__).with_name("keys.py"),
        {
            "prefix": f"bare_{secrets.token_hex(4)}_",
            "guests": [(name, ours.token(name)) for name in ("uk", "aus", "uk", "aus")],
            "requests": {name: ours.chart_body(name) for name in ("sales_plain", "sales_named")},
        },
    )
    assert found["sales_plain"] == [
        ["uk", ["uk"], False],
        *(["aus", ["uk"], True], ["uk", ["uk"], True], ["aus", ["uk"], True]),
    ]
    assert found["sales_named"] == [
        *(["uk", ["uk"], False], ["aus", ["aus"], False]),
        *(["uk", ["uk"], True], ["aus", ["aus"], True]),
    ]
