"""Databases of each kind with one interface, for tests that must pass on each of them."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from api.migrations.core.lock_key import LockKey
from api.migrations.databases.sqlite.placement import find
from tests.support.mariadb import MariaDB
from tests.support.pace import scaled
from tests.support.servers import fetch_sync, optional

HISTORY = "alembic_version_history"
PATIENCE_SECONDS = scaled(30)
NOBODY = 65534


class Place(Protocol):
    """An empty database of the test's own."""

    @property
    def kind(self) -> str:
        """`mariadb`, `mysql`, `sqlite` or `postgresql`."""

    @property
    def url(self) -> str:
        """The URL as platforms write it."""

    @property
    def settings(self) -> dict[str, str]:
        """The settings that an instance needs to use it in a test."""

    def rows(self, sql: str) -> list[list[str]]:
        """Run one statement on a connection of its own, and return the rows as text."""

    def has(self, table: str) -> bool:
        """Return whether the table exists."""

    def lock_is_free(self) -> bool:
        """Return whether no session holds the migrations' lock."""

    def writers(self) -> int:
        """Return how many sessions are in a transaction that has written something."""

    def at_rest(self) -> bool:
        """Return whether the server waits for the next statement of the session that has written something."""


@dataclass
class MariaDBPlace:
    """A database on the tests' MariaDB or MySQL."""

    server: MariaDB
    url: str
    kind: str = "mariadb"
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def database(self) -> str:
        """The name of the database."""
        return urlsplit(self.url).path[1:]

    def rows(self, sql: str) -> list[list[str]]:
        """Run the statement as root."""
        return self.server.query(sql, database=self.database)

    def has(self, table: str) -> bool:
        """Return whether the table exists."""
        return bool(self.rows(f"SHOW TABLES LIKE '{table}'"))

    def lock_is_free(self) -> bool:
        """Ask the server with IS_FREE_LOCK."""
        name = LockKey.derive("fastapi", "alembic_version", self.database).channel
        return self.rows(f"SELECT IS_FREE_LOCK('{name}')") == [["1"]]

    def writers(self) -> int:
        """Count the transactions of InnoDB."""
        [[count]] = self.rows(
            "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p "
            f"ON p.id = t.trx_mysql_thread_id WHERE p.db = '{self.database}' AND t.trx_rows_modified > 0"
        )
        return int(count)

    def at_rest(self) -> bool:
        """Return True: a statement is one message, so a moment inside one is short."""
        return True

    def sessions(self) -> list[list[str]]:
        """Return number and statement of each session in the database but the asking one."""
        return self.rows(
            "SELECT id, coalesce(info, '') FROM information_schema.processlist "
            f"WHERE db = '{self.database}' AND id <> CONNECTION_ID() ORDER BY id"
        )


@dataclass
class SqlitePlace:
    """A file in a folder of the test's own."""

    path: Path
    kind: str = "sqlite"
    # a test's folder may be in a container's own layer, which `auto` refuses
    settings: dict[str, str] = field(default_factory=lambda: {"MIGRATION_STRATEGY": "advisory_lock"})

    @property
    def url(self) -> str:
        """The URL, with the four slashes of an absolute path."""
        return f"sqlite:///{self.path}"

    @property
    def lock_file(self) -> Path:
        """The lock file beside the database."""
        key = LockKey.derive("fastapi", "alembic_version", None)
        return self.path.with_name(f"{self.path.name}-{key.channel}.lock")

    def need_volume(self) -> None:
        """Skip if the folder is lost with the container: there several instances are refused, with any elector."""
        if find(self.path).ends_with_container:
            optional("a temporary folder on a volume", "set TMPDIR to one")

    def rows(self, sql: str) -> list[list[str]]:
        """Run the statement on the file, in autocommit."""
        with closing(sqlite3.connect(self.path, timeout=PATIENCE_SECONDS, isolation_level=None)) as connection:
            return [["NULL" if value is None else str(value) for value in row] for row in connection.execute(sql)]

    def has(self, table: str) -> bool:
        """Return whether the table exists."""
        return bool(self.rows(f"SELECT name FROM sqlite_master WHERE name = '{table}'"))

    def lock_is_free(self) -> bool:
        """Try to lock the lock file."""
        with suppress(FileNotFoundError), self.lock_file.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def writers(self) -> int:
        """Return 1 if a session holds SQLite's write lock, which allows no more, and otherwise 0."""
        with closing(sqlite3.connect(self.path, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return 1
        return 0

    def at_rest(self) -> bool:
        """Return True: there is no server."""
        return True


@dataclass
class PostgresPlace:
    """A database on the tests' PostgreSQL."""

    url: str
    kind: str = "postgresql"
    settings: dict[str, str] = field(default_factory=dict)

    def rows(self, sql: str) -> list[list[str]]:
        """Run the statement as the superuser."""
        return [["NULL" if value is None else str(value) for value in row] for row in fetch_sync(self.url, sql)]

    def has(self, table: str) -> bool:
        """Return whether the table exists."""
        return self.rows(f"SELECT to_regclass('{table}')") != [["NULL"]]

    def lock_is_free(self) -> bool:
        """Count the advisory locks of this database."""
        in_here = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        return self.rows(f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND {in_here}") == [["0"]]

    def writers(self) -> int:
        """Count the sessions with a transaction id."""
        [[count]] = self.rows(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND datname = current_database()"
        )
        return int(count)

    def at_rest(self) -> bool:
        """Return False between the two messages of one statement, where no time limit of the server applies."""
        states = "SELECT state FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND datname = current_database()"
        return self.rows(states) == [["idle in transaction"]]


@contextmanager
def nobody() -> Iterator[None]:
    """Run the block without root's privileges, which would allow to write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def history(place: Place, columns: str = "revision, outcome, instance") -> list[tuple[str, ...]]:
    """Return the attempts at revisions with readable names, which tests made, oldest first."""
    if not place.has(HISTORY):
        return []
    rows = place.rows(f"SELECT {columns} FROM {HISTORY} WHERE length(revision) <> 12 ORDER BY id")
    return [tuple(row) for row in rows]


def outcomes(place: Place, revision: str) -> list[str]:
    """Return how the attempts at one revision ended, oldest first."""
    return [outcome for name, outcome in history(place, "revision, outcome") if name == revision]


def applied(place: Place) -> list[str]:
    """Return the revisions that upgrades applied, in order; a name that occurs twice was applied twice."""
    rows = place.rows(f"SELECT revision FROM {HISTORY} WHERE direction = 'upgrade' AND outcome = 'applied' ORDER BY id")
    return [row[0] for row in rows]


def versions(place: Place) -> list[str]:
    """Return the rows of Alembic's version table."""
    return [row[0] for row in place.rows("SELECT version_num FROM alembic_version")]


def marks(place: Place) -> list[str]:
    """Return the rows that revisions left behind; a name that occurs twice was applied twice."""
    return sorted(row[0] for row in place.rows("SELECT revision FROM marks")) if place.has("marks") else []
