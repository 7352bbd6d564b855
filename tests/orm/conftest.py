"""Tenants ``uk`` and ``aus`` on SQLite, with one author and one note each, of equal keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry import Tenancy
from tests.places import Author, Kind, Note, made

BOTH = ("uk", "aus")


@pytest.fixture
def tenancy(tmp_path: Path) -> Iterator[Tenancy]:
    with made(Kind("sqlite", "pysqlite"), tmp_path, None) as place:
        tenancy = place.tenancy(*BOTH, max_connections=6, per_tenant=6)
        for tenant_id in BOTH:
            with tenancy.use(tenant_id), tenancy.session() as session:
                session.add(Note(id=1, tenant=tenant_id, author=Author(id=1, name=tenant_id)))
                session.commit()
        yield tenancy
        tenancy.close()
