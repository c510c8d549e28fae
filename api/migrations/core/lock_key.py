"""The key of the migration lock: 64 bits, derived from names that every instance has."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class LockKey:
    """A 64-bit advisory lock key; advisory locks are per database, so the key does not depend on it."""

    value: int
    """Signed, as in `pg_try_advisory_lock(bigint)`."""

    @classmethod
    def derive(cls, name: str, version_table: str, schema: str | None) -> LockKey:
        """Return the key for a lock name and the version table that it protects."""
        # not `hash()`, which differs between processes
        text = "\0".join(("fastapi-migrations", name, schema or "", version_table))
        return cls(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True))

    @property
    def second(self) -> LockKey:
        """The key of the second lock, which the session that env.py opens holds."""
        digest = hashlib.sha256(b"second\0" + self.digits.encode()).digest()
        return LockKey(int.from_bytes(digest[:8], "big", signed=True))

    @property
    def halves(self) -> tuple[int, int, int, int]:
        """Both halves of this key and of the second one."""
        return self.high, self.low, self.second.high, self.second.low

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
        """The key in hexadecimal."""
        return f"{self.value & 0xFFFFFFFFFFFFFFFF:016x}"

    @property
    def channel(self) -> str:
        """The NOTIFY channel on which the lock holder wakes the waiters; on MySQL the name of the lock."""
        return f"migrations_{self.digits}"

    @property
    def label(self) -> str:
        """The prefix of `application_name` of every session that holds or waits for this lock."""
        return f"migrations:{self.high:08x}:"
