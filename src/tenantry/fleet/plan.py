"""What is to be done to a tenant to bring it from one revision to another, as data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Plan", "Segment", "Step"]


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
