"""The recipe "Multitenant Flask-SQLAlchemy", on Flask-SQLAlchemy 3.

    flask --app examples.flask_seed.app create-tables
    flask --app examples.flask_seed.app run

Then http://localhost:5000/?tenant=test1 reads test1.db, and http://localhost:5000/?tenant=test2
reads test2.db, both in the instance folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Flask, request
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenantry.integrations.flask_sqlalchemy import MultiTenantSQLAlchemy


class Base(DeclarativeBase):
    pass


db = MultiTenantSQLAlchemy(model_class=Base)


class Note(db.Model):  # type: ignore[name-defined,misc]
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


def create_app(instance_path: Path | None = None) -> Flask:
    app = Flask(__name__, instance_path=str(instance_path) if instance_path else None)
    app.config["SQLALCHEMY_BINDS"] = {
        "test1": "sqlite:///test1.db",
        "test2": "sqlite:///test2.db",
    }
    db.init_app(app)

    @app.before_request
    def before_request() -> None:
        # Just use the query parameter "tenant"
        db.choose_tenant(request.args["tenant"])

    @app.get("/")
    def notes() -> dict[str, Any]:
        return {"notes": list(db.session.scalars(db.select(Note.text).order_by(Note.id)))}

    @app.cli.command("create-tables")
    def create_tables() -> None:
        """Create the tables in every tenant, with one note each."""
        for tenant in db.tenancy.tenants():
            with db.tenancy.use(tenant):
                db.create_all()
                db.session.add(Note(text=f"a note of {tenant.id}"))
                db.session.commit()

    return app
