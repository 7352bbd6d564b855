"""Who is shown a picture that a worker made for staff, inside Superset; started by test_fleet.py.

Reads one JSON document with ids and people, puts pictures into the cache of thumbnails as a
worker does, and prints for each person and address the status and whether a picture came.
"""

# mypy: ignore-errors
# Runs in Superset's environment, which is not the one where this is type-checked.

import json
import sys

PICTURE = b"\x89PNG of the reference tenant's rows"


def draw(asked):
    """Puts the pictures there; returns the addresses of a chart's and a dashboard's."""
    from superset.extensions import db, security_manager
    from superset.models.dashboard import Dashboard
    from superset.models.slice import Slice
    from superset.utils.core import override_user
    from superset.utils.screenshots import (
        ChartScreenshot,
        DashboardScreenshot,
        ScreenshotCachePayload,
    )
    from superset.utils.urls import get_url_path

    with override_user(security_manager.find_user("admin")):
        chart = db.session.get(Slice, asked["chart"])
        dashboard = db.session.get(Dashboard, asked["dashboard"])
        made = (
            ChartScreenshot(get_url_path("Superset.slice", slice_id=chart.id), chart.digest),
            DashboardScreenshot(
                get_url_path("Superset.dashboard", dashboard_id_or_slug=dashboard.id),
                dashboard.digest,
            ),
        )
        for each in made:
            each.cache.set(each.get_cache_key(), ScreenshotCachePayload(image=PICTURE).to_dict())
        key = made[0].get_cache_key()
        return [
            f"/api/v1/chart/{chart.id}/thumbnail/{chart.digest}/",
            f"/api/v1/chart/{chart.id}/screenshot/{key}/",
            f"/api/v1/dashboard/{dashboard.id}/thumbnail/{dashboard.digest}/",
        ]


def main() -> None:
    asked = json.load(sys.stdin)
    from superset.app import create_app

    app = create_app()
    with app.app_context():
        addresses = draw(asked)
    client = app.test_client()
    login = client.post("/api/v1/security/login", json={**asked["staff"], "provider": "db"})
    people = {"staff": {"Authorization": f"Bearer {login.get_json()['access_token']}"}}
    people |= {name: {"X-GuestToken": token} for name, token in asked["guests"].items()}
    found = {}
    for name, headers in people.items():
        answers = [app.test_client().get(address, headers=headers) for address in addresses]
        found[name] = [(each.status_code, each.data == PICTURE) for each in answers]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
