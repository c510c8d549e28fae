"""The errors of the package, in one tree.

Each class has the exit code of `migrate.sh` and the facts as attributes. A message says what failed, why, and how to
fix it; it never contains a URL, a password or an SQL literal.

A message may quote an exception of a revision, a driver or a library, whose text may hold a row's value. `foreign`
marks that text, so that the health endpoints can leave it out (`in_public`), while the log, the history and the
commands have it (`in_full`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from signal import Signals
from typing import Any, ClassVar

COMMAND = "alembic-fleet" if __package__ == "alembic_fleet" else "./migrate.sh"
"""The command line of this package in messages: of the distribution, or of a copied folder."""
IN_THE_LOG = "the text is in the log"

_BEGIN, _TEXT, _END = "\ufdd0", "\ufdd1", "\ufdd2"
"""The marks. Unicode reserves these characters for use within a process, so no text contains them."""
_MARKED = re.compile(f"{_BEGIN}([^{_TEXT}]*){_TEXT}([^{_END}]*)(?:{_END}|\\Z)")


def foreign(text: str, instead: str = IN_THE_LOG) -> str:
    """Mark the text of another program in a message; the public reads `instead`."""
    return f"{_BEGIN}{instead}{_TEXT}{in_full(text)}{_END}"


def in_full(message: str) -> str:
    """Return a message with the texts of other programs, without marks."""
    return re.sub(f"[{_BEGIN}{_TEXT}{_END}]", "", _MARKED.sub(r"\2", message))


def in_public(message: str) -> str:
    """Return a message without the texts of other programs."""
    return _MARKED.sub(r"\1", message)


class MigrationError(Exception):
    """The base of all errors that this package raises; its text is that for operators, `in_full`.

    Attributes:
        message: the text with its marks, for the message of another error and for the status.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(in_full(message))
        self.message = message

    def name_scope(self, name: str) -> None:
        """Begin the message with `name`, such as "schema shop", if there are several version tables."""
        self.message = f"{name}: {self.message}"
        self.args = (in_full(self.message),)


class ConfigurationError(MigrationError):
    """A setting is missing or malformed, or contradicts another one."""

    exit_code = 2


class UnknownRevision(MigrationError):
    """This build does not contain the requested revision."""

    exit_code = 2


class NotAtHead(MigrationError):
    """`check` found pending revisions."""

    exit_code = 3


class WaitTimeout(MigrationError):
    """The wait budget ended before the schema was verified; the service did not start on the old schema."""

    exit_code = 4


class DatabaseUnreachable(MigrationError):
    """The database cannot be reached for now (down, starting, out of connections, network); may be retried."""

    exit_code = 5


class NoConnectionLeft(DatabaseUnreachable):
    """PostgreSQL has no free connection, for its role or database, or at all; may be retried."""


class ConnectionLost(DatabaseUnreachable):
    """The connection was lost while a revision ran; it is retried once, because the cause is unknown.

    Attributes:
        revision: the revision that ran.
        name: its id and the first line of its docstring, for messages.
        upgrade: whether it was being applied rather than undone.
        last_words: the message of the server or the driver, without values.
        error_class: the name of the exception.
        repeated: whether the same request lost the connection in this revision before.
    """

    def __init__(
        self, message: str, *, revision: str, name: str, upgrade: bool, last_words: str, error_class: str
    ) -> None:
        super().__init__(message)
        self.revision = revision
        self.name = name
        self.upgrade = upgrade
        self.last_words = last_words
        self.error_class = error_class
        self.repeated = False


class ElectorUnreachable(DatabaseUnreachable):
    """The elector (Redis, the Kubernetes API) does not answer for now; may be retried."""


class AccessRefused(MigrationError):
    """The server refused the connection (password, role, database name, TLS); a retry cannot help."""

    exit_code = 5


class PrivilegeMissing(MigrationError):
    """The migration role lacks a privilege; it needs a GRANT, and a retry cannot help."""


class ReadOnlyServer(MigrationError):
    """The server is a standby or read-only: its locks protect nothing, and DDL cannot run there."""


class HoldLost(MigrationError):
    """The session no longer holds the lock: a revision released it, or the session was terminated."""

    exit_code = 6


class LockHeld(MigrationError):
    """`unlock` left the lock held: the lock holder makes progress, or its session could not be terminated."""


class SchemaRefused(MigrationError):
    """The database is ahead of this build, has diverged from it, is half migrated, or has tables and no revision."""

    exit_code = 7


class RevisionFailed(MigrationError):
    """A revision failed; `applied` lists the revisions that the run had committed before it."""

    def __init__(self, message: str, *, revision: str | None, applied: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.revision = revision
        self.applied = tuple(applied)


class RunTimeout(RevisionFailed):
    """The run's budget ended before the revisions did."""


class TableLockTimeout(RevisionFailed):
    """A budget ended while a revision was waiting for its table locks; a larger one would not have helped."""

    exit_code = 4


class LockContended(MigrationError):
    """A revision could not acquire a table lock in time and was rolled back whole; may be retried."""

    def __init__(self, message: str, revision: str, applied: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.revision = revision
        self.applied = tuple(applied)
        self.pause_seconds = 0.0
        """The pause before the next attempt, which leaves the table to other sessions."""


class OldInstances(MigrationError):
    """Instances of builds that need what a contract revision drops are connected, so it did not run; may be retried.

    Attributes:
        blockers: their sessions, as `core.status.Blocker`.
    """

    exit_code = 4

    def __init__(self, message: str, *, blockers: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.blockers = blockers


class AlreadyFailed(RevisionFailed):
    """Another instance ran this revision while this one waited, and it failed; a retry would fail again."""


class DirectConnectionNeeded(MigrationError):
    """The connection goes through a pooler that cannot carry what the revision or the lock needs."""

    @classmethod
    def for_block(cls, revisions: str) -> DirectConnectionNeeded:
        """Create the error for `revisions` that open an `autocommit_block`, as `backfill` does."""
        return cls(
            f"revision {revisions} uses autocommit_block or backfill, which cannot run under the lock through a "
            "transaction pooler. To fix: set MIGRATION_DATABASE_URL to the database's direct endpoint (its own port, "
            "not the pooler's)"
        )


class ForeignConnection(MigrationError):
    """`env.py` does not migrate on the connection that holds the lock."""


class BackupFailed(MigrationError):
    """The backup failed (tools, folder, server or time limit), so nothing was migrated."""


class NoClone(MigrationError):
    """`plan` cannot make or use a clone of the schema, so that it goes by rules."""


class Cancelled(MigrationError):
    """A signal or shutdown stopped the run; the current revision was rolled back and the lock is released."""

    @classmethod
    def by_signal(cls, number: int) -> Cancelled:
        """Create the error for the signal that stopped the run."""
        return cls(f"stopped by {Signals(number).name}; what was not committed is rolled back, the lock is free")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes, each once: an error that is raised again from itself is its own cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
