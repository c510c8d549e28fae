"""PostgreSQL's modes of table locks, and which sessions each lets wait.

Source: PostgreSQL's documentation, "Explicit Locking", with its table "Conflicting Lock Modes": a reader (SELECT) takes
ACCESS SHARE, a writer (INSERT, UPDATE, DELETE, MERGE) takes ROW EXCLUSIVE.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum


class LockMode(IntEnum):
    """The modes of table locks, from the weakest to the strongest."""

    ACCESS_SHARE = 1
    ROW_SHARE = 2
    ROW_EXCLUSIVE = 3
    SHARE_UPDATE_EXCLUSIVE = 4
    SHARE = 5
    SHARE_ROW_EXCLUSIVE = 6
    EXCLUSIVE = 7
    ACCESS_EXCLUSIVE = 8

    def __str__(self) -> str:
        return self.name.replace("_", " ")

    @classmethod
    def named(cls, name: str) -> LockMode:
        """Return the mode that `pg_locks` calls `AccessShareLock`, or SQL `ACCESS SHARE`."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removesuffix("Lock"))
        return cls[words.replace(" ", "_").upper()]

    @property
    def waiting(self) -> str:
        """Which sessions wait while the lock is held."""
        if self is LockMode.ACCESS_EXCLUSIVE:
            return "readers and writers wait"
        if self >= LockMode.SHARE:
            return "writers wait"
        if self is LockMode.SHARE_UPDATE_EXCLUSIVE:
            return "readers and writers go on"
        return "none waits" if self is LockMode.ACCESS_SHARE else "readers go on, writers wait for the same rows only"


@dataclass(frozen=True)
class Lock:
    """A lock on one table, view, sequence or index."""

    on: str
    """Its name, with the schema unless that is `public`; for an unknown one what is known, "the table of ix"."""
    mode: LockMode
    is_index: bool = False
    held: LockMode | None = None
    """The mode at least as strong that an earlier statement of the same transaction acquired; it is kept to the end."""
    since: int | None = None
    """The line of that statement."""
