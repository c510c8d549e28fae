"""A temporary database with the schema of another one and without its rows, in which `plan` runs the revisions.

pg_dump reads the schema of the source under ACCESS SHARE locks, for which it waits as long as a revision would. Nothing
else touches the source. The clone is dropped when the block ends, also after an error or Ctrl-C; its name says whose
schema it has, and when it was made. Left out is what would reach beyond the clone: logins to foreign servers,
subscriptions and event triggers.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import asyncpg

from ...core.protocols import ANSWER_SECONDS
from ...errors import BackupFailed, MigrationError, NoClone
from ...execution.error_translation import translate
from ...execution.limits import Limits
from ...runtime.cancellation import to_the_end
from ...urls.database_url import DatabaseURL
from .connection import connect

if TYPE_CHECKING:
    from ..backups.pg_dump import Tools  # optional

log = logging.getLogger(__name__)

LOCK_WAIT_SECONDS = 2.0
"""How long pg_dump waits for a table."""
DUMP_SECONDS = 60.0
"""How long pg_dump may take, and its locks may make a migration wait: it waits without a limit for a materialized view
that is being refreshed."""

ENTRIES_AT_ONCE = 100
"""How many objects are made in one transaction. It locks each of them, in a table of locks that all sessions share: if
that is full, the transactions of others fail."""
_ENTRY = re.compile(r"^--\n-- Name: .*; Type: ", re.MULTILINE)
"""The comment before each object in pg_restore's output."""
_BEYOND = re.compile(r"\d+; \d+ \d+ (USER MAPPING|EVENT TRIGGER)\b")
_FOR_PSQL = re.compile(r"^(\\(un)?restrict .*|SET transaction_timeout = 0;)$", re.MULTILINE)
"""Commands of psql, and a setting that servers before 17 do not know."""
_LEFT_OUT = "--no-owner --no-privileges --no-comments --no-publications --no-subscriptions --no-security-labels".split()
_LEFTOVERS = """
    SELECT datname::text FROM pg_database d WHERE datname ~ '^plan_of_.*_[0-9]{8}_[0-9]{6}_[0-9a-f]{4}$'
    AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = d.datname) ORDER BY 1
"""
_FACTS = """
    SELECT current_database()::text AS name, pg_encoding_to_char(encoding)::text AS encoding,
           datcollate::text AS collate, datctype::text AS ctype, current_setting('search_path') AS search_path,
           pg_backend_pid() AS pid
    FROM pg_database WHERE datname = current_database()
"""
_MAY_CREATE = "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"


@dataclass(frozen=True)
class Clone:
    """A clone: its URL, its name, and the names of clones left behind on the server, in the end its own if it stays."""

    url: DatabaseURL
    name: str
    leftovers: list[str]


@asynccontextmanager
async def schema_clone(
    source: DatabaseURL, server: DatabaseURL, application_name: str, version_table: str, revisions: frozenset[str]
) -> AsyncIterator[Clone]:
    """Make a clone of the schema of `source` on `server`, at `revisions`, and drop it at the end.

    Raises:
        NoClone: it cannot be made; the message says why.
    """
    with TemporaryDirectory(prefix="plan-") as folder:
        path = Path(folder, "schema")
        async with _failing("reading the schema"), _connection(source, application_name) as connection:
            facts = await connection.fetchrow(_FACTS, timeout=ANSWER_SECONDS)
            if facts["pid"] != connection.get_server_pid():
                raise NoClone("the URL leads through a pooler, which pg_dump and a new database cannot use")
            schema = await _schema(await _tools(connection, source, application_name), path)
    name = name_of(facts["name"], datetime.now(UTC))
    clone = server.of_database(name)
    async with _failing("making the clone"), _connection(server, application_name) as connection:
        leftovers = await _prepare(connection)
    try:
        async with _failing("making the clone"):
            async with _connection(server, application_name) as connection:
                await _create(connection, name, facts)
            async with _connection(clone, application_name) as connection:
                for part in parts(schema):
                    await connection.execute(part)
                await connection.execute("RESET search_path")
                await _set_revisions(connection, version_table, revisions)
        yield Clone(clone, name, leftovers)
    finally:
        await to_the_end(_drop(server, application_name, name, leftovers))


def name_of(database: str, now: datetime) -> str:
    """Return a new name for a clone of `database`."""
    legible = re.sub(r"\W", "_", database.lower(), flags=re.ASCII)[:24]
    return f"plan_of_{legible}_{now:%Y%m%d_%H%M%S}_{secrets.token_hex(2)}"


def parts(schema: str) -> Iterator[str]:
    """Yield the statements that make the schema, those of at most `ENTRIES_AT_ONCE` objects at once."""
    starts = [entry.start() for entry in _ENTRY.finditer(schema)][::ENTRIES_AT_ONCE]
    for start, end in pairwise([0, *starts[1:], len(schema)]):
        yield schema[start:end]


async def _prepare(connection: asyncpg.Connection) -> list[str]:
    """Return the names of leftover clones. Raises `NoClone` if this role may not create a database."""
    if not await connection.fetchval(_MAY_CREATE, timeout=ANSWER_SECONDS):
        role = await connection.fetchval("SELECT current_user")
        raise NoClone(
            f"the role {role} may not create a database. To fix: run 'ALTER ROLE {role} CREATEDB', or pass --on with "
            "the URL of a server where it may"
        )
    return [row[0] for row in await connection.fetch(_LEFTOVERS, timeout=ANSWER_SECONDS)]


async def _create(connection: asyncpg.Connection, name: str, facts: asyncpg.Record) -> None:
    text = "SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L', {})"
    values = [name, facts["encoding"], facts["collate"], facts["ctype"]]
    await connection.execute(await connection.fetchval(text.format("$1::text, $2::text, $3::text, $4::text"), *values))
    # the value is a list of names, as SHOW writes it
    await connection.execute(f'ALTER DATABASE "{name}" SET search_path = {facts["search_path"] or "DEFAULT"}')


async def _schema(tools: Tools, path: Path) -> str:
    """Return the statements that make the schema."""
    try:
        async with asyncio.timeout(DUMP_SECONDS):
            await tools.dump(path, "--schema-only", *_LEFT_OUT, lock_wait_seconds=LOCK_WAIT_SECONDS)
    except TimeoutError:
        raise NoClone(
            f"pg_dump did not read the schema within {DUMP_SECONDS:g} s, perhaps because another session refreshes a "
            "materialized view or changes a view. To fix: plan again later"
        ) from None
    entries = path.with_name("entries")
    entries.write_text("\n".join(entry for entry in await tools.contents(path) if not _BEYOND.match(entry)))
    return _FOR_PSQL.sub("", await tools.script(path, entries, *_LEFT_OUT))


async def _set_revisions(connection: asyncpg.Connection, version_table: str, revisions: frozenset[str]) -> None:
    if revisions:
        await connection.execute(f"CREATE TABLE IF NOT EXISTS {version_table} (version_num text PRIMARY KEY)")
        sql = f"INSERT INTO {version_table} (version_num) SELECT unnest($1::text[])"
        await connection.execute(sql, sorted(revisions))


async def _drop(server: DatabaseURL, application_name: str, name: str, leftovers: list[str]) -> None:
    drop = f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'
    try:
        async with _connection(server, application_name) as connection:
            await connection.execute(drop)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, MigrationError) as error:
        leftovers.append(name)
        why = translate(error, "dropping the clone")
        log.warning("The clone is still there: %s. To fix: run '%s'", why, drop, extra={"event": "clone_left"})


async def _tools(connection: asyncpg.Connection, url: DatabaseURL, application_name: str) -> Tools:
    try:
        from ..backups.pg_dump import Tools, environment
    except ModuleNotFoundError as error:
        if "backups" not in str(error.name):
            raise
        raise NoClone("this copy of the package has no folder databases/backups, which finds pg_dump") from None
    own = await environment(connection, url, application_name)
    return await Tools.find(connection.get_server_version().major, own)


@asynccontextmanager
async def _failing(doing: str) -> AsyncIterator[None]:
    try:
        yield
    except NoClone:
        raise
    except BackupFailed as error:
        if "due to statement timeout" in str(error):  # that is how pg_dump limits its wait
            raise NoClone(
                f"another session holds a table, and pg_dump waits no longer than {LOCK_WAIT_SECONDS:g} s. To fix: "
                "plan again later"
            ) from error
        raise NoClone(str(error)) from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, MigrationError) as error:
        raise NoClone(str(translate(error, doing))) from error


@asynccontextmanager
async def _connection(url: DatabaseURL, application_name: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(url, Limits(LOCK_WAIT_SECONDS, 0.0, 0.0), application_name)
    try:
        yield connection
    finally:
        await connection.close(timeout=ANSWER_SECONDS)
