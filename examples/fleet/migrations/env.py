"""Alembic's environment: one line makes it work on tenants."""

from shop import Base

from tenantry.fleet import alembic_env

alembic_env.run(Base.metadata)
