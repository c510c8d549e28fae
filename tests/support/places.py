"""Databases in one shape, for tests that must hold on each of them."""

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
        """As platforms write it."""

    @property
    def settings(self) -> dict[str, str]:
        """What an instance must be told to use it in a test."""

    def rows(self, sql: str) -> list[list[str]]:
        """Run one statement on a connection of its own, and return the rows as text."""

    def has(self, table: str) -> bool:
        """Whether the table is there."""

    def lock_is_free(self) -> bool:
        """Whether nobody has the migrations' lock."""

    def writers(self) -> int:
        """How many sessions are in a transaction that has written something."""

    def at_rest(self) -> bool:
        """Whether the server waits for the next statement of whoever has written something."""


@dataclass
class MariaDBPlace:
    """A database on the tests' MariaDB or MySQL."""

    server: MariaDB
    url: str
    kind: str = "mariadb"
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def database(self) -> str:
        """Its name."""
        return urlsplit(self.url).path[1:]

    def rows(self, sql: str) -> list[list[str]]:
        """Ask as root."""
        return self.server.query(sql, database=self.database)

    def has(self, table: str) -> bool:
        """Whether the table is there."""
        return bool(self.rows(f"SHOW TABLES LIKE '{table}'"))

    def lock_is_free(self) -> bool:
        """Ask the server."""
        name = LockKey.derive("fastapi", "alembic_version", self.database).channel
        return self.rows(f"SELECT IS_FREE_LOCK('{name}')") == [["1"]]

    def writers(self) -> int:
        """Ask InnoDB."""
        [[count]] = self.rows(
            "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p "
            f"ON p.id = t.trx_mysql_thread_id WHERE p.db = '{self.database}' AND t.trx_rows_modified > 0"
        )
        return int(count)

    def at_rest(self) -> bool:
        """A statement is one message, so a moment that is not is short."""
        return True

    def sessions(self) -> list[list[str]]:
        """Number and statement of each session in the database but the asking one."""
        return self.rows(
            "SELECT id, coalesce(info, '') FROM information_schema.processlist "
            f"WHERE db = '{self.database}' AND id <> CONNECTION_ID() ORDER BY id"
        )


@dataclass
class SqlitePlace:
    """A file in a folder of the test's own."""

    path: Path
    kind: str = "sqlite"
    # a test's folder may well lie in a container's own layer, which `auto` refuses
    settings: dict[str, str] = field(default_factory=lambda: {"MIGRATION_STRATEGY": "advisory_lock"})

    @property
    def url(self) -> str:
        """With the four slashes of an absolute path."""
        return f"sqlite:///{self.path}"

    @property
    def lock_file(self) -> Path:
        """Beside it."""
        key = LockKey.derive("fastapi", "alembic_version", None)
        return self.path.with_name(f"{self.path.name}-{key.channel}.lock")

    def need_volume(self) -> None:
        """Skip where the folder ends with the container: several instances are refused there, whoever elects them."""
        if find(self.path).ends_with_container:
            optional("a temporary folder on a volume", "set TMPDIR to one")

    def rows(self, sql: str) -> list[list[str]]:
        """Ask the file, in autocommit."""
        with closing(sqlite3.connect(self.path, timeout=PATIENCE_SECONDS, isolation_level=None)) as connection:
            return [["NULL" if value is None else str(value) for value in row] for row in connection.execute(sql)]

    def has(self, table: str) -> bool:
        """Whether the table is there."""
        return bool(self.rows(f"SELECT name FROM sqlite_master WHERE name = '{table}'"))

    def lock_is_free(self) -> bool:
        """Try it."""
        with suppress(FileNotFoundError), self.lock_file.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def writers(self) -> int:
        """One at most, whoever it is: that is what BEGIN IMMEDIATE asks for."""
        with closing(sqlite3.connect(self.path, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return 1
        return 0

    def at_rest(self) -> bool:
        """There is no server."""
        return True


@dataclass
class PostgresPlace:
    """A database on the tests' PostgreSQL."""

    url: str
    kind: str = "postgresql"
    settings: dict[str, str] = field(default_factory=dict)

    def rows(self, sql: str) -> list[list[str]]:
        """Ask as the superuser."""
        return [["NULL" if value is None else str(value) for value in row] for row in fetch_sync(self.url, sql)]

    def has(self, table: str) -> bool:
        """Whether the table is there."""
        return self.rows(f"SELECT to_regclass('{table}')") != [["NULL"]]

    def lock_is_free(self) -> bool:
        """Ask the server."""
        in_here = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        return self.rows(f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND {in_here}") == [["0"]]

    def writers(self) -> int:
        """Ask the server."""
        [[count]] = self.rows(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND datname = current_database()"
        )
        return int(count)

    def at_rest(self) -> bool:
        """Not between the two messages of one statement: there no limit of the server's is on."""
        states = "SELECT state FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND datname = current_database()"
        return self.rows(states) == [["idle in transaction"]]


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's privileges, which would write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def history(place: Place, columns: str = "revision, outcome, instance") -> list[tuple[str, ...]]:
    """The attempts at revisions with readable names, which tests made, oldest first."""
    if not place.has(HISTORY):
        return []
    rows = place.rows(f"SELECT {columns} FROM {HISTORY} WHERE length(revision) <> 12 ORDER BY id")
    return [tuple(row) for row in rows]


def outcomes(place: Place, revision: str) -> list[str]:
    """How the attempts at one revision ended, oldest first."""
    return [outcome for name, outcome in history(place, "revision, outcome") if name == revision]


def applied(place: Place) -> list[str]:
    """The revisions that an upgrade applied, in order; one that is named twice was applied twice."""
    rows = place.rows(f"SELECT revision FROM {HISTORY} WHERE direction = 'upgrade' AND outcome = 'applied' ORDER BY id")
    return [row[0] for row in rows]


def versions(place: Place) -> list[str]:
    """What Alembic's own table says."""
    return [row[0] for row in place.rows("SELECT version_num FROM alembic_version")]


def marks(place: Place) -> list[str]:
    """The rows that revisions left behind; two of a name are a double application."""
    return sorted(row[0] for row in place.rows("SELECT revision FROM marks")) if place.has("marks") else []
