"""The protocols between the coordinator and a database: what it needs, and nothing of how."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from .schema import Observed
from .status import Blocker, LockStatus

ANSWER_SECONDS = 10.0
"""The limit of every query that only reads, in seconds: a server that has vanished never answers."""

Kind = Literal["upgrade", "downgrade", "stamp", "repair", "backup"]


@dataclass(frozen=True)
class MigrationRequest:
    """What to do under the lock."""

    kind: Kind
    target: str
    repairs: str | None = None
    """The revision that must still be half applied when the lock is held, or else nothing is done."""

    @property
    def relative(self) -> bool:
        """Whether the target counts from where the database is (`-1`, `+2`, `ae10+1`): doing it twice does more."""
        return re.search(r"[+-]\d+$", self.target) is not None


@dataclass(frozen=True)
class PastAttempt:
    """An earlier attempt at a revision, as the history table recorded it."""

    revision: str
    outcome: str
    instance: str
    release: str | None
    error: str | None
    age_seconds: float
    """Since it ended, or began if it never ended; by the database's clock."""


class ProgressListener(Protocol):
    """Who hears of the run's progress; called in the migration thread."""

    def planned(self, revisions: tuple[str, ...], verb: str) -> None:
        """The steps that will run, in order, and what each will have been: "Applied" or "Undid"."""

    def started(self, revision: str) -> None:
        """A step begins."""

    def finished(self, revision: str) -> None:
        """A step is committed."""

    def undone(self) -> None:
        """The steps that were reported as finished were rolled back with one that was not."""

    def contended(self, revision: str, attempt: int, seconds: float, blockers: Sequence[Blocker]) -> None:
        """A step did not get its lock and was rolled back; the next attempt comes in `seconds`."""

    def observed(self, lock_status: LockStatus) -> None:
        """What was seen from the side while a statement of the step lasts."""

    def invalid(self, indexes: Sequence[str]) -> None:
        """These are the INVALID indexes of the database now, before or after the run."""

    def dropped(self, index: str) -> None:
        """An INVALID index that an earlier try at the next step left behind is gone."""


class SchemaStore(Protocol):
    """The version and the history table, read and written outside a run. A table that does not exist reads as empty."""

    async def observe(self) -> Observed:
        """Which revisions the database has: one query, no lock, no transaction left open."""

    async def lineage(self) -> Mapping[str, frozenset[str]]:
        """Parents of revisions, as the history table knows them; empty where there is no such table."""

    async def attempts(self, pending: Sequence[str]) -> Sequence[PastAttempt]:
        """Attempts to apply any of `pending`, newest first; those that only lacked a table lock are left out."""

    async def check_ids(self, request: MigrationRequest, revisions: frozenset[str]) -> None:
        """Make sure that the version table can hold the ids that `request` writes on a database at `revisions`.

        Raises:
            ConfigurationError: an id is too long, or has a character outside the table's encoding.
        """

    async def record_timeout(self, error: str) -> None:
        """Record that this instance's attempt, which runs on another session, is about to be cancelled, and why.

        Where the lock ends with the connection, the next holder would else begin the same again before
        `record_failure` can say so. Should the attempt be committed after all, that is what stays recorded.
        """

    async def record_failure(
        self, error: str, revision: str | None, age_seconds: float, error_class: str = "TimeoutError"
    ) -> None:
        """Record that this instance's attempt failed, unless it was applied, when the session that ran it is gone.

        `revision` is that of an upgrade, which is recorded anew where its attempt was rolled back too: where there is
        none that is younger than `age_seconds`.
        """


class OperatorStore(SchemaStore, Protocol):
    """What commands read besides."""

    async def recognise(self) -> None:
        """Make sure that the version and the history table are what they are taken for.

        Raises:
            ConfigurationError: one of them is another table.
        """

    async def runs(self, limit: int) -> Sequence[Mapping[str, Any]]:
        """The newest rows of the history table, newest first."""

    async def half_applied(self) -> Mapping[str, Any] | None:
        """The newest half-applied attempt, if any."""

    async def invalid_indexes(self) -> list[str]:
        """The INVALID indexes of the database, by their quoted names."""


class MigrationSession(Protocol):
    """One database session: the lock and the revisions live and die with it.

    Every method but `close`, and every method of the store, raises a `MigrationError`: `DatabaseUnreachable` is
    transient, the rest is not.
    """

    @property
    def store(self) -> SchemaStore:
        """The tables, on this session's connection."""

    async def open(self) -> None:
        """Connect, unless connected."""

    async def try_lock(self) -> bool:
        """Acquire the lock if it is free; never waits in the server."""

    async def lock_is_held(self) -> bool:
        """Whether any session holds the lock: one cheap query that changes nothing and blocks no session."""

    async def back_up_if_requested(self, request: MigrationRequest) -> None:
        """Take the backup that was asked for, under the lock; it is complete when this returns.

        It has a time limit of its own; nothing was changed if it raises.
        """

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        """Run the request on the locked session; returns when it is committed."""

    async def unlock(self) -> None:
        """Release the lock and wake the waiters. Raises `HoldLost` if this session did not hold it any more."""

    async def lock_status(self) -> LockStatus:
        """Who holds the lock, what it does, what blocks it and who waits, as far as this role may see."""

    async def pause(self, seconds: float) -> None:
        """Wait for a notification of the holder, at most `seconds`."""

    async def close(self) -> None:
        """Leave nothing behind; never raises, bounded in time."""


class OperatorSession(MigrationSession, Protocol):
    """A session for a command."""

    @property
    def store(self) -> OperatorStore:
        """The tables, on this session's connection."""


class Elector(Protocol):
    """Decides outside the database who may try; the database's own lock still decides who runs.

    It does not fence: a process that was paused wakes up after its hold is gone. So the run asks `confirm` inside each
    revision's transaction, and ends when `lost` returns.
    """

    async def try_acquire(self) -> bool:
        """Become the leader if there is none; never waits for one. From then on the hold renews itself.

        Raises:
            ElectorUnreachable: no answer; whether the hold was taken is not known, and it is not counted as taken.
            AccessRefused: the answer is no, and stays no (credentials, permissions).
        """

    async def confirm(self) -> None:
        """Make sure that the hold is still ours, with time to spare for a COMMIT.

        Raises:
            HoldLost: it is not, or nobody can say.
        """

    async def lost(self) -> str:
        """Return once the hold is lost, with the reason for people; not before."""

    async def ask(self) -> str | None:
        """The instance that leads, by an answer of this moment; changes nothing.

        Raises:
            ElectorUnreachable: no answer.
            AccessRefused: the answer is no, and stays no (credentials, permissions).
        """

    async def rehearse(self) -> None:
        """Make sure that this instance has every right that a hold needs; changes nothing.

        Raises:
            ElectorUnreachable: no answer, or none to a write.
            AccessRefused: the answer is no, and stays no (credentials, permissions, namespace).
        """

    async def leader(self) -> str | None:
        """The instance that leads, as far as it is known; never raises."""

    async def release(self) -> None:
        """Give the hold back if it is ours, and close connections; never raises, bounded in time, may be repeated."""
