"""Every way a migration can fail, in one tree.

Each class carries the facts as attributes and the exit code that `migrate.sh` ends with. A message
says who, what, how long and what to do next; it never contains a URL, a password or an SQL literal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar


class MigrationError(Exception):
    """Base of everything this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class ConfigurationError(MigrationError):
    """A setting is missing, malformed or contradicts another one."""

    exit_code = 2


class UnknownRevision(MigrationError):
    """The revision that was asked for is not in this build's `versions` folder."""

    exit_code = 2


class NotAtHead(MigrationError):
    """`check` found revisions that are not applied."""

    exit_code = 3


class WaitTimeout(MigrationError):
    """The wait budget ended before the schema was verified; nothing was started on the old schema."""

    exit_code = 4


class DatabaseUnreachable(MigrationError):
    """No connection right now (down, starting, out of connections, cut off); worth another try."""

    exit_code = 5


class ConnectionLost(DatabaseUnreachable):
    """The connection was lost while a revision ran; worth one more try, since anything may have ended it.

    Attributes:
        revision: the one that ran.
        name: its id and the first line of its docstring, for messages.
        upgrade: whether it was being applied, and not undone.
        last_words: what the server or the driver said, without values.
        error_class: the name of the exception that ended it.
        repeated: whether the same order has lost it in that revision before.
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
    """What decides who may try (Redis, the Kubernetes API) does not answer right now; worth another try."""


class AccessRefused(MigrationError):
    """The server answered and said no (password, role, database name, TLS); trying again cannot help."""

    exit_code = 5


class PrivilegeMissing(MigrationError):
    """The migration role lacks a privilege; a GRANT is needed, not another try."""


class ReadOnlyServer(MigrationError):
    """The server is a standby or read-only: its locks protect nothing and DDL cannot run there."""


class HoldLost(MigrationError):
    """The session no longer holds the lock (the revision dropped it, or the session died)."""

    exit_code = 6


class LockHeld(MigrationError):
    """`unlock` did not end the session that holds the lock: it is getting on, or it does not end."""


class SchemaRefused(MigrationError):
    """The database is ahead of this build, on another line of revisions, or half migrated."""

    exit_code = 7


class RevisionFailed(MigrationError):
    """A revision raised; its transaction was rolled back.

    `applied` lists what this run had committed before it, so that nobody has to guess.
    """

    def __init__(self, message: str, *, revision: str | None, applied: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.revision = revision
        self.applied = tuple(applied)


class TableLockTimeout(RevisionFailed):
    """The run's budget ended while a revision was trying to get its table locks."""

    exit_code = 4


class LockContended(MigrationError):
    """A revision did not get a table lock in time and was rolled back whole; it is worth another try."""

    def __init__(self, message: str, revision: str, applied: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.revision = revision
        self.applied = tuple(applied)
        self.pause_seconds = 0.0
        """How long to leave the table alone before the next try."""


class AlreadyFailed(RevisionFailed):
    """Another instance ran this revision while we waited, and it failed; running it again would repeat that."""


class DirectConnectionNeeded(MigrationError):
    """A revision needs autocommit, and the connection goes through a transaction pooler."""

    @classmethod
    def for_block(cls, revisions: str) -> DirectConnectionNeeded:
        """The refusal of `revisions` that open an `autocommit_block`."""
        return cls(
            f"revision {revisions} uses autocommit_block, which cannot run under the lock through a transaction "
            "pooler. To fix: set MIGRATION_DATABASE_URL to the database's direct endpoint (its own port, not the "
            "pooler's)"
        )


class ForeignConnection(MigrationError):
    """`env.py` migrates on a connection of its own, outside the session that holds the lock."""


class BackupFailed(MigrationError):
    """There is no backup, so nothing was changed: the tools, the folder, the server or the time did not allow it."""


class Cancelled(MigrationError):
    """A signal or shutdown stopped the run; the current revision was rolled back and the lock is free."""

    exit_code = 1


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, each once: an error that is raised again from itself is its own cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
