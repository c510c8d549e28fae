"""The protocols between the coordinator and a database."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..errors import IN_THE_LOG, OldInstances, foreign
from .schema import Observed
from .status import Blocker, LockStatus, Statement

ANSWER_SECONDS = 10.0
"""The time limit of every query that only reads: a vanished server never answers."""

TRIED = ("upgrade", "stamp", "before")
"""The directions of the rows that tell whether a pending revision was tried."""

Kind = Literal["upgrade", "downgrade", "stamp", "repair", "backup"]

_OWN_WORDS = re.compile(
    r"[^\n]*? failed (?:and was rolled back|after it had committed a part of its work): \w+(?: \([\w ]+\))?: "
    r"|(?:revision \S+|the function '\w+') was cancelled [\w ]+: "
    r"the run did not finish within MIGRATION_RUN_SECONDS=[\d.e+]*\d"
    r"(?:(?:\. To fix:| \(last: \S+ did not acquire its) .*| \(last: )?"
    r"|revision [^\n]*? failed: the connection was lost twice while it ran \(last error: "
    r"|revision [^\n]*? uses autocommit_block(?: or backfill)?, which cannot run under .*"
)
"""The beginning of a recorded failure, up to the text of an exception."""


@dataclass(frozen=True)
class MigrationRequest:
    """A request to be run under the lock."""

    kind: Kind
    target: str
    """A revision; those of a stamp may be several, with ", " between them."""
    repairs: str | None = None
    """The revision that must still be half applied under the lock; otherwise nothing is done."""
    purge: bool = False
    """Whether a stamp empties the version table first."""
    tag: str | None = None
    """For env.py: `context.get_tag_argument()`."""
    note: str | None = None
    """A note on the stamped revisions, for the history."""
    create_all: bool = False
    """Whether an upgrade creates the tables of the models instead of running the revisions."""
    despite_instances: bool = False
    """Whether a contract revision runs even if instances of older builds are connected."""

    @property
    def relative(self) -> bool:
        """Whether the target counts from another revision (`-1`, `+2`, `ae10+1`), so that a repeated run does more."""
        return re.search(r"[+-]\d+$", self.target) is not None


@dataclass(frozen=True)
class PastAttempt:
    """An earlier attempt at a revision, from the history table; its age counts from its end, or else its start."""

    revision: str
    outcome: str
    instance: str
    release: str | None
    error: str | None
    age_seconds: float

    @property
    def message(self) -> str:
        """The error as a part of a message: what is not certainly this package's own text is marked as `foreign`."""
        text = self.error or ""
        own = _OWN_WORDS.match(text)
        if own is None:
            return foreign(text, f"revision {self.revision} failed, {IN_THE_LOG}")
        rest = text[own.end() :]
        return own[0] + (rest and foreign(rest))


class ProgressListener(Protocol):
    """Receives the progress of a run, in the migration thread."""

    def planned(self, revisions: tuple[str, ...], verb: str) -> None:
        """The steps that will run, in order; `verb` is "Applied" or "Undid"."""

    def started(self, revision: str) -> None:
        """A step starts."""

    def finished(self, revision: str) -> None:
        """A step is committed."""

    async def between(self) -> None:
        """Wait for the cancellation of a run whose time limit has passed; otherwise return at once."""

    def undone(self) -> None:
        """All finished steps were rolled back with a later one."""

    def contended(self, revision: str, attempt: int, seconds: float, blockers: Sequence[Blocker] | None) -> None:
        """A step did not acquire its table lock and was rolled back; the next attempt is in `seconds`.

        Of a step that runs in batches only the last one was rolled back, and `blockers` are those last observed (None).
        """

    def progressed(self, batches: Statement | None) -> None:
        """The progress of a step that runs in batches, after each of them; None once all are done."""

    def observed(self, lock_status: LockStatus) -> None:
        """The lock status during a statement, read by another session."""

    def invalid(self, indexes: Sequence[str]) -> None:
        """The INVALID indexes of the database, before or after the run."""

    def dropped(self, index: str) -> None:
        """An INVALID index of an earlier attempt at the next step was dropped."""


class SchemaStore(Protocol):
    """Reads and writes the version and the history table outside a run; a table that does not exist reads as empty."""

    async def observe(self) -> Observed:
        """Read the state of the database: one query, no lock, no open transaction afterwards."""

    async def lineage(self) -> Mapping[str, frozenset[str]]:
        """Return the parents of the revisions in the history table."""

    async def contracts(self) -> Mapping[str, str]:
        """Return what the contract revisions in the history table require of a build, by their ids."""

    async def attempts(self, pending: Sequence[str], directions: Sequence[str] = TRIED) -> Sequence[PastAttempt]:
        """Return the attempts in these directions at any of `pending`, newest first.

        Contended attempts and finished calls of `before` are left out.
        """

    async def check_ids(self, request: MigrationRequest, revisions: frozenset[str]) -> None:
        """Check that the version table can store the ids that `request` writes on a database at `revisions`.

        Raises:
            ConfigurationError: an id is too long, or has a character outside the table's encoding.
        """

    async def record_timeout(self, error: str) -> None:
        """Record why this instance's attempt, which runs on another session, is about to be cancelled.

        If the cancelled connection releases the lock, the next holder could start the same attempt before
        `record_failure`. If the attempt is committed after all, its success replaces this record.
        """

    async def record_failure(
        self, error: str, revision: str | None, age_seconds: float, error_class: str = "TimeoutError"
    ) -> None:
        """Record that this instance's attempt failed, unless it was applied, after its session was closed.

        If `revision`, that of an upgrade, has no attempt younger than `age_seconds`, because it was rolled back too, a
        new one is recorded.
        """


class OperatorStore(SchemaStore, Protocol):
    """A store for commands."""

    async def recognise(self) -> None:
        """Raise `ConfigurationError` if the version or the history table is another table."""

    async def runs(self, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return the newest rows of the history table, newest first."""

    async def half_applied(self) -> Mapping[str, Any] | None:
        """Return the newest half-applied attempt, if any."""

    async def invalid_indexes(self) -> list[str]:
        """Return the quoted names of the INVALID indexes."""


class MigrationSession(Protocol):
    """One database session, which holds the lock and runs the revisions.

    Every method but `close`, and every method of the store, raises a `MigrationError`; `DatabaseUnreachable` may be
    retried, the others not.
    """

    @property
    def store(self) -> SchemaStore:
        """The tables, on this session's connection."""

    async def open(self) -> None:
        """Connect, unless connected."""

    async def try_lock(self) -> bool:
        """Acquire the lock if it is free; never waits in the server."""

    async def lock_is_held(self) -> bool:
        """Return whether any session holds the lock: one cheap query that blocks no session."""

    async def old_instances(self, request: MigrationRequest) -> OldInstances | None:
        """Return the error if a contract revision would run while instances that need what it drops are connected."""

    async def back_up_if_requested(self, request: MigrationRequest) -> None:
        """Make a requested backup under the lock, within its own time limit; if this raises, nothing was changed."""

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        """Run the request under the lock; it is committed when this returns."""

    async def unlock(self) -> None:
        """Release the lock and wake the waiters; raise `HoldLost` if this session no longer held it."""

    async def lock_status(self) -> LockStatus:
        """Return the lock status, as far as this role may see it."""

    async def pause(self, seconds: float, listening_seconds: float) -> bool:
        """Wait `seconds`, or for a notification of the lock holder for at most `listening_seconds`.

        Returns False if the session listened and got none: then the lock holder has not finished, unless it has died.
        """

    async def close(self) -> None:
        """Close the connection and release the lock; never raises, limited in time."""


class OperatorSession(MigrationSession, Protocol):
    """A session for commands."""

    @property
    def store(self) -> OperatorStore:
        """The tables, on this session's connection."""


class Elector(Protocol):
    """Decides outside the database which instance may try the lock; the database's own lock decides which one runs.

    It does not fence: a paused process may resume after its hold has ended. So the run calls `confirm` inside each
    revision's transaction, and is cancelled when `lost` returns.

    `try_acquire`, `ask` and `rehearse` raise `ElectorUnreachable` without an answer, and `AccessRefused` if the answer
    is no and stays no (credentials, permissions, namespace).
    """

    async def try_acquire(self) -> bool:
        """Acquire the hold if it is free, without waiting; it is then renewed in the background.

        Without an answer the hold may have been acquired, but does not count.
        """

    async def confirm(self) -> None:
        """Raise `HoldLost` unless the hold is this instance's, with time to spare for a COMMIT."""

    async def lost(self) -> str:
        """Return the reason, for people, when the hold is lost."""

    async def ask(self) -> str | None:
        """Read the elected instance now, without changing anything."""

    async def rehearse(self) -> None:
        """Check every right that a hold needs, without changing anything."""

    async def leader(self) -> str | None:
        """Return the elected instance as last read; never raises."""

    async def release(self) -> None:
        """Release the hold and close connections; never raises, limited in time, may be repeated."""
