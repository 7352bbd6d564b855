"""A pytest plugin for Flask-SQLAlchemy's own suite: our class stands in the place of theirs."""

import flask_sqlalchemy

from tenantry.integrations.flask_sqlalchemy import MultiTenantSQLAlchemy

flask_sqlalchemy.SQLAlchemy = MultiTenantSQLAlchemy  # type: ignore[misc]


def pytest_report_header() -> str:
    return f"substituted: {flask_sqlalchemy.SQLAlchemy.__name__}"
