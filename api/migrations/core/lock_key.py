"""The key of the migration lock: 64 bits, derived from names that are the same in every instance."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class LockKey:
    """A 64-bit advisory lock key; advisory locks are per database, so its name needs no database in it."""

    value: int
    """Signed, as `pg_try_advisory_lock(bigint)` takes it."""

    @classmethod
    def derive(cls, name: str, version_table: str, schema: str | None) -> LockKey:
        """The key for a lock name and the version table that it guards.

        SHA-256, because Python's `hash()` differs from process to process.
        """
        text = "\0".join(("fastapi-migrations", name, schema or "", version_table))
        return cls(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True))

    @property
    def second(self) -> LockKey:
        """The key of the second lock, which the session that env.py opens holds."""
        digest = hashlib.sha256(b"second\0" + self.digits.encode()).digest()
        return LockKey(int.from_bytes(digest[:8], "big", signed=True))

    @property
    def high(self) -> int:
        """The upper half, shown by `pg_locks` as `classid`."""
        return (self.value >> 32) & 0xFFFFFFFF

    @property
    def low(self) -> int:
        """The lower half, shown by `pg_locks` as `objid`."""
        return self.value & 0xFFFFFFFF

    def __str__(self) -> str:
        return f"0x{self.digits} (classid {self.high}, objid {self.low})"

    @property
    def digits(self) -> str:
        """In hexadecimal."""
        return f"{self.value & 0xFFFFFFFFFFFFFFFF:016x}"

    @property
    def channel(self) -> str:
        """The NOTIFY channel on which the holder wakes those who wait; on MySQL the name of the lock itself."""
        return f"migrations_{self.digits}"

    @property
    def label(self) -> str:
        """The prefix of `application_name` of every session that has to do with this lock."""
        return f"migrations:{self.high:08x}:"
