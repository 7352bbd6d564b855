"""What is to be done to a tenant to bring it from one revision to another, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from ..routing.statements import commands, keeps_session_state, text_leaves_nothing

__all__ = ["Plan", "Segment", "Step"]


_DDL = re.compile(r"(?:alter|comment|create|drop|grant|revoke|truncate)\b", re.IGNORECASE)
_TEMPORARY = re.compile(r"\b(?:pg_)?temp(?:orary)?\b", re.IGNORECASE)


@dataclass(frozen=True)
class Segment:
    """Statements that are one transaction, or (*transactional* false) run outside any."""

    statements: tuple[str, ...]
    transactional: bool = True


@dataclass(frozen=True)
class Step:
    """One revision, up or down: from the *before* heads of the version table to *after*.

    *segments* are its SQL, version row included; ``None``: it needs a live connection.
    *why_online* says what asks for one.
    """

    revision: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    is_upgrade: bool = True
    segments: tuple[Segment, ...] | None = None
    why_online: str = ""
    title: str = ""

    @property
    def is_batch(self) -> bool:
        """Whether it is one transaction of plain SQL."""
        return (
            self.segments is not None and len(self.segments) == 1 and self.segments[0].transactional
        )

    @cached_property
    def batch(self) -> str:
        """The statements of a batch, for a message; each may end with a comment."""
        assert self.segments is not None
        return "".join(f"{each}\n;\n" for each in self.segments[0].statements)

    @cached_property
    def leaves_nothing(self) -> bool:
        """Whether a session of PostgreSQL's is certainly the same after its SQL as before."""
        return all(
            _leaves_nothing(command)
            for segment in self.segments or ()
            for statement in segment.statements
            for command in commands(statement)
        )


@dataclass(frozen=True)
class Plan:
    """The steps from where a tenant stands to where it shall stand; none: it stands there."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    steps: tuple[Step, ...] = ()

    def from_here(self, heads: tuple[str, ...]) -> tuple[Step, ...] | None:
        """The steps that are left at *heads*; ``None`` if the plan does not pass there."""
        if heads == self.after:
            return ()
        for index, step in enumerate(self.steps):
            if step.before == heads:
                return self.steps[index:]
        return None


def _leaves_nothing(command: str) -> bool:
    if _DDL.match(command):
        return not _TEMPORARY.search(command) and not keeps_session_state(command)
    return text_leaves_nothing(command)
