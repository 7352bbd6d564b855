"""What a warm chart request costs, inside Superset's own process; started by test_overhead.py.

Reads one JSON document with the requests, and prints one: for each chart the connections that
a warm request opens to a tenant's database, and the seconds that it spends in tenantry, callees
included, as the profiler has them (which slows our many small calls down several times, so it is
an upper bound).
"""

# mypy: ignore-errors
# Runs in Superset's environment, which is not the one where this is type-checked.

import cProfile
import json
import pstats
import sys
import time

import tenantry

HERE = tenantry.__path__[0]


def main() -> None:
    asked = json.load(sys.stdin)
    from sqlalchemy import event
    from sqlalchemy.pool import Pool
    from superset.app import create_app

    opened = []

    @event.listens_for(Pool, "connect")
    def count(connection, record):
        if type(connection).__module__.startswith("psycopg2"):
            opened.append(1)

    client = create_app().test_client()
    found = {}
    for name, body in asked["requests"].items():

        def once(body=body):
            answer = client.post(
                "/api/v1/chart/data", json=body, headers={"X-GuestToken": asked["token"]}
            )
            assert answer.status_code == 200, answer.text
            return answer.get_json()["result"][0]["is_cached"]

        once()
        opened.clear()
        assert once(), "not from the cache"
        connections = len(opened)
        began = time.perf_counter()
        for _ in range(asked["times"]):
            once()
        whole = (time.perf_counter() - began) / asked["times"]
        found[name] = {
            "connections": connections,
            "whole_seconds": whole,
            # The least of all: a busy machine makes some requests slower, and none faster.
            "tenantry_seconds": min(profiled(once) for _ in range(asked["times"])),
        }
    print(json.dumps(found))


def profiled(once) -> float:
    profiler = cProfile.Profile()
    profiler.enable()
    once()
    profiler.disable()
    return entered(pstats.Stats(profiler))


def entered(stats: pstats.Stats) -> float:
    """Seconds in functions of tenantry that something else called, with all they call."""
    seconds = 0.0
    for (file, _, name), (_, _, own, _, callers) in stats.stats.items():
        if not file.startswith(HERE):
            continue
        if name in PASS_ON:
            seconds += own
            continue
        for (caller, _, caller_name), (*_, cumulative) in callers.items():
            if not caller.startswith(HERE) or caller_name in PASS_ON:
                seconds += cumulative
    return seconds


# They call Superset in the middle, and are counted without that.
PASS_ON = frozenset(
    {"get_guest_user_from_token", "get_rls_cache_key", "guest_token_wins", "guarded", "open"}
)

if __name__ == "__main__":
    main()
