"""Whatever the order of steps, a row that is read names the tenant of the block that reads it.

Hypothesis plays enter, leave, nest, read, write, commit, rollback, savepoint, dirt, errors,
dispose, suspend and a new generation against a model of plain dictionaries, on SQLite.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from tenantry import Placement, Server, State, Tenancy, Tenant, current
from tenantry.directory import MappingDirectory
from tenantry.errors import NoTenantError, TenantSuspendedError, TenantSwitchError
from tests.places import Author, Base

IDS = ("uk", "aus", "eu")
which = st.sampled_from(IDS)


class Block:
    """A block that was entered: its tenant, how to leave it, and its session if one is open."""

    def __init__(self, tenant_id: str, leave: Any) -> None:
        self.tenant_id = tenant_id
        self.leave = leave
        self.session: Session | None = None
        self.pending: set[str] = set()


class Model(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.stack = ExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.folder = Path(folder)
        server = Server.from_url(
            "main", f"sqlite:///{folder}/", create_missing=True, connect_args={"timeout": 1}
        )
        servers = {"main": server}
        tenants = [Tenant(each, Placement("main", database=f"{each}_1.db")) for each in IDS]
        self.directory = MappingDirectory(tenants, servers=servers)
        # Each open block of the model may hold one connection, and no more.
        self.tenancy = Tenancy(
            self.directory, servers, max_connections=8, per_tenant=8, wait_seconds=2
        )
        self.rows: dict[str, set[str]] = {each: set() for each in IDS}
        self.generation = 1
        self.number = 0
        self.blocks: list[Block] = []
        for each in IDS:
            self.tenancy.create_all(Base.metadata, each)

    def teardown(self) -> None:
        if not hasattr(self, "stack"):
            return
        while self.blocks:
            self.leave()
        assert self.tenancy.status()["held_by"] == {}
        self.tenancy.close()
        for tenant_id in IDS:
            tenant = self.tenancy.get(tenant_id)
            if tenant.state is State.READY:
                with self.tenancy.use(tenant_id), self.tenancy.session() as session:
                    assert set(session.scalars(select(Author.name))) == self.rows[tenant_id]
        self.tenancy.close()
        self.stack.close()

    # Blocks ---------------------------------------------------------------------------------

    @property
    def top(self) -> Block | None:
        return self.blocks[-1] if self.blocks else None

    @precondition(lambda self: len(self.blocks) < 4)
    @rule(tenant_id=which, switch=st.booleans())
    def enter(self, tenant_id: str, switch: bool) -> None:
        scope = self.tenancy.use(tenant_id, switch=switch)
        if self.tenancy.get(tenant_id).state is State.SUSPENDED:
            with pytest.raises(TenantSuspendedError):
                scope.__enter__()
        elif self.top is not None and self.top.tenant_id != tenant_id and not switch:
            with pytest.raises(TenantSwitchError):
                scope.__enter__()
        else:
            scope.__enter__()
            self.blocks.append(Block(tenant_id, scope))

    @precondition(lambda self: self.blocks)
    @rule()
    def leave(self) -> None:
        block = self.blocks.pop()
        if block.session is not None:
            block.session.close()
        block.leave.__exit__(None, None, None)

    # Work -----------------------------------------------------------------------------------

    def session(self) -> tuple[Block, Session] | None:
        """The innermost block's session, unless its tenant is not served."""
        block = self.top
        assert block is not None
        if block.session is None:
            block.session = self.tenancy.session()
            block.pending = set()
        if block.session.in_transaction():
            return block, block.session
        if self.tenancy.get(block.tenant_id).state is State.SUSPENDED:
            with pytest.raises(TenantSuspendedError):
                block.session.scalars(select(Author.name)).all()
            block.session.close()
            block.session = None
            return None
        return block, block.session

    def alone(self, block: Block) -> bool:
        """SQLite lets one write at a time, so only one block of a tenant writes."""
        return not any(
            other is not block and other.tenant_id == block.tenant_id and other.pending
            for other in self.blocks
        )

    @precondition(lambda self: self.blocks)
    @rule(how=st.sampled_from(["orm", "text", "core"]))
    def read(self, how: str) -> None:
        found = self.session()
        if found is None:
            return
        block, session = found
        if how == "orm":
            names = {author.name for author in session.scalars(select(Author))}
        elif how == "text":
            names = set(session.scalars(text("SELECT name FROM authors")))
        else:
            names = set(session.connection().scalars(select(Author.__table__.c.name)))
        assert all(name.startswith(block.tenant_id + "/") for name in names)
        assert names == self.rows[block.tenant_id] | block.pending

    @precondition(lambda self: self.blocks)
    @rule()
    def write(self) -> None:
        found = self.session()
        if found is None or not self.alone(found[0]):
            return
        block, session = found
        self.number += 1
        name = f"{block.tenant_id}/{self.number}"
        session.add(Author(name=name))
        session.flush()
        block.pending.add(name)

    @precondition(lambda self: self.blocks and self.top.session is not None)
    @rule()
    def commit(self) -> None:
        assert self.top is not None
        assert self.top.session is not None
        self.top.session.commit()
        self.rows[self.top.tenant_id] |= self.top.pending
        self.top.pending = set()

    @precondition(lambda self: self.blocks and self.top.session is not None)
    @rule()
    def rollback(self) -> None:
        assert self.top is not None
        assert self.top.session is not None
        self.top.session.rollback()
        self.top.pending = set()

    @precondition(lambda self: self.blocks)
    @rule(undone=st.booleans())
    def savepoint(self, undone: bool) -> None:
        found = self.session()
        if found is None or not self.alone(found[0]):
            return
        block, session = found
        # Python's sqlite3 begins a transaction at the first write, and a savepoint before that
        # would end as one (SQLAlchemy's documentation of the dialect).
        self.write()
        self.number += 1
        name = f"{block.tenant_id}/{self.number}"
        try:
            with session.begin_nested():
                session.add(Author(name=name))
                session.flush()
                if undone:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        else:
            block.pending.add(name)

    @precondition(lambda self: self.blocks)
    @rule()
    def error(self) -> None:
        found = self.session()
        if found is None:
            return
        block, session = found
        with pytest.raises(DBAPIError):
            session.execute(text("SELECT * FROM nothing_of_this_name"))
        session.rollback()
        block.pending = set()

    @precondition(lambda self: self.blocks)
    @rule()
    def dirt(self) -> None:
        found = self.session()
        if found is None or found[0].pending or not self.alone(found[0]):
            return
        _, session = found
        session.execute(text("CREATE TEMP TABLE authors (id INTEGER, name TEXT)"))
        session.execute(text("INSERT INTO authors VALUES (1, 'dirt')"))
        session.commit()
        session.close()

    @rule()
    def dispose(self) -> None:
        self.tenancy.close()

    # The directory --------------------------------------------------------------------------

    @rule(tenant_id=which)
    def suspend_or_resume(self, tenant_id: str) -> None:
        before = self.tenancy.get(tenant_id)
        state = State.READY if before.state is State.SUSPENDED else State.SUSPENDED
        self.directory.replace(before.with_state(state), expected=before)

    @rule(tenant_id=which)
    def move(self, tenant_id: str) -> None:
        """The tenant is somewhere else from now on, with nothing in it."""
        if any(block.tenant_id == tenant_id for block in self.blocks):
            return
        before = self.tenancy.get(tenant_id)
        if before.state is State.SUSPENDED:
            return
        self.generation += 1
        placement = Placement("main", database=f"{tenant_id}_{self.generation}.db")
        self.directory.replace(
            Tenant(tenant_id, placement, key=before.key, generation=before.generation + 1),
            expected=before,
        )
        # An administrator does that, in whose context nobody is current.
        Context().run(self.tenancy.create_all, Base.metadata, tenant_id)
        self.rows[tenant_id] = set()

    # What always holds ------------------------------------------------------------------------

    @invariant()
    def the_current_tenant_is_the_innermost_blocks(self) -> None:
        if not hasattr(self, "blocks"):
            return
        tenant = current()
        assert (tenant.id if tenant else None) == (self.top.tenant_id if self.top else None)
        if tenant is None:
            with pytest.raises(NoTenantError):
                self.tenancy.session()

    @invariant()
    def nobody_holds_more_than_the_open_sessions(self) -> None:
        if not hasattr(self, "blocks"):
            return
        held = self.tenancy.status()["held_by"]
        assert isinstance(held, dict)
        for tenant_id, count in held.items():
            mine = [block for block in self.blocks if block.tenant_id == tenant_id]
            assert count <= len([block for block in mine if block.session is not None])


def test_the_model_holds() -> None:
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=int(os.environ.get("TENANTRY_MODEL_EXAMPLES", "40")),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize="TENANTRY_MODEL_EXAMPLES" not in os.environ,
            database=None,
        ),
    )
