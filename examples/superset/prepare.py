"""Make Superset's metadata database ready, in one process: one start costs 15 s of a processor.

    python prepare.py admin:Admin embedder:Embedder ...       each an account and its role

May be run again. ``SUPERSET_ADMIN_PASSWORD`` is the password of a new account ``admin``, and so
on; without one it is random, to be set later (stack.py), so that the prepared database can be
kept and used again.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import superset
from flask_migrate import upgrade
from superset.app import create_app

GUEST_EXTRA = (
    ("can_csv", "Superset"),
    ("can_explore_json", "Superset"),
    ("can_samples", "Datasource"),
    ("can_drill", "Dashboard"),
    ("can_view_chart_as_table", "Dashboard"),
    ("can_view_query", "Dashboard"),
)
EMBEDDER = (("can_grant_guest_token", "SecurityRestApi"), ("can_read", "SecurityRestApi"))


def main(accounts: list[str]) -> None:
    app = create_app()
    with app.app_context():
        upgrade(directory=str(Path(superset.__file__).parent / "migrations"))
        from superset.extensions import appbuilder, security_manager

        appbuilder.add_permissions(update_perms=True)
        security_manager.sync_role_definitions()
        make_role(security_manager, "Guest", GUEST_EXTRA, like="Gamma")
        make_role(security_manager, "Embedder", EMBEDDER)
        for account in accounts:
            name, role = account.split(":")
            if security_manager.find_user(name):
                continue
            password = os.environ.get(f"SUPERSET_{name.upper()}_PASSWORD")
            security_manager.add_user(
                name,
                name.title(),
                "",
                f"{name}@example.org",
                security_manager.find_role(role),
                password or secrets.token_urlsafe(24),
            )


def make_role(manager, name: str, extra, like: str | None = None) -> None:
    role = manager.add_role(name)
    if like:
        for permission in manager.find_role(like).permissions:
            manager.add_permission_role(role, permission)
    for permission, view in extra:
        found = manager.add_permission_view_menu(permission, view)
        manager.add_permission_role(role, found)


if __name__ == "__main__":
    main(sys.argv[1:])
