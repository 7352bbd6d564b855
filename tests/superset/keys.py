"""What a template's tenant does for a cache alone, inside Superset; started by test_templates.py.

Takes the adapter's two other lines away, the prefix of the data cache and the security manager's
key. Reads one JSON document with charts and tokens, and prints for each chart what each guest
saw, one after the other, and whether it came from the cache.
"""

# mypy: ignore-errors
# Runs in Superset's environment, which is not the one where this is type-checked.

import json
import sys


def main() -> None:
    asked = json.load(sys.stdin)
    from superset.app import create_app
    from superset.extensions import cache_manager

    app = create_app()
    with app.app_context():
        assert callable(cache_manager.data_cache.cache.key_prefix)
        cache_manager.data_cache.cache.key_prefix = asked["prefix"]
        manager = app.appbuilder.sm
        before = super(type(manager), manager).get_rls_cache_key
        manager.get_rls_cache_key = before
    client = app.test_client()
    found = {}
    for name, body in asked["requests"].items():
        found[name] = []
        for guest, token in asked["guests"]:
            answer = client.post("/api/v1/chart/data", json=body, headers={"X-GuestToken": token})
            assert answer.status_code == 200, answer.text
            result = answer.get_json()["result"][0]
            regions = sorted({row["region"] for row in result["data"]})
            found[name].append([guest, regions, bool(result["is_cached"])])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
