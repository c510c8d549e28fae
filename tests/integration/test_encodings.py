"""Databases whose encoding lacks some characters: a failure is still recorded, and the other instances read it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from api.migrations.errors import ConfigurationError, RevisionFailed
from api.migrations.text.encoding import codec, holds
from tests.conftest import fresh_name
from tests.integration.sql_runs import failure
from tests.support.fakes import assembled, tree
from tests.support.pace import scaled
from tests.support.places import HISTORY, MariaDBPlace, Place
from tests.support.pooler import PgBouncer
from tests.support.postgres_runs import locked, run
from tests.support.servers import Server, fetch, fetch_sync

INSTANCE, RELEASE = "Имя 😀", "выпуск…"
WORDS = "Ошибка 😀"
FAILS = f'raise ValueError("{WORDS} … half \\udcff, none \\0")'
SPELT = r"ValueError: \u041e\u0448\u0438\u0431\u043a\u0430 \U0001f600 ... half \udcff, none \x00"


@pytest.fixture(params=["LATIN1", "SQL_ASCII", "EUC_TW", "WIN1251"])
def encoded_url(request: pytest.FixtureRequest, server: Server) -> Iterator[str]:
    """Yield an empty database in each encoding in turn."""
    with server.database(fresh_name(), encoding=request.param) as url:
        yield url


@pytest.fixture
def latin1_url(server: Server) -> Iterator[str]:
    """Yield an empty LATIN1 database."""
    with server.database(fresh_name(), encoding="LATIN1") as url:
        yield url


async def row_of(url: str, revision: str) -> dict[str, Any]:
    """Return the newest attempt at a revision."""
    [row] = await fetch(url, f"SELECT * FROM {HISTORY} WHERE revision = '{revision}' ORDER BY id DESC LIMIT 1")
    return dict(row)


def test_the_server_converts_each_character_that_is_stored_unchanged(database_url: str) -> None:
    """In each of PostgreSQL's encodings the server accepts each character that the package stores unchanged."""
    names = [row[0] for row in fetch_sync(database_url, "SELECT pg_encoding_to_char(i) FROM generate_series(0, 34) i")]
    assert {"LATIN1", "EUC_JIS_2004", "WIN1258", "UTF8"} <= set(names)
    for name in names:
        last = 0x10000 if name.startswith(("EUC", "UTF8")) else 0x3000
        kept = "".join(chr(i) for i in range(last) if holds(chr(i), (name,)))
        assert kept.startswith("\x01\x02"), f"{name} holds no ASCII"
        if codec(name) is not None:
            fetch_sync(database_url, "SELECT convert_to($1, $2)", kept, name)


async def test_a_failure_is_recorded_in_each_encoding(
    request: pytest.FixtureRequest, encoded_url: str, tmp_path: Path
) -> None:
    """The encoding lacks letters of the error: they are stored escaped, and another instance finds the attempt."""
    ini = tree(tmp_path, FAILS)
    with pytest.raises(RevisionFailed, match=WORDS):
        await run(encoded_url, ini, instance=INSTANCE, release=RELEASE)
    row = await row_of(encoded_url, "r1")
    assert (row["outcome"], row["finished_at"] is not None) == ("failed", True)
    if "WIN1251" in request.node.name:
        assert row["instance"] == r"Имя \U0001f600"
        assert r"Ошибка \U0001f600 … half" in row["error"]
    else:
        assert row["instance"] == r"\u0418\u043c\u044f \U0001f600"
        assert SPELT in row["error"]
    assembly = assembled(encoded_url, ini, "two", release=RELEASE)
    session = assembly.session()
    await session.open()
    [past] = await session.store.attempts(["r1", "новая"])
    await session.close()
    assert (past.outcome, past.release) == ("failed", assembly.policy.release)


async def test_a_waiter_reads_the_lock_holder_s_full_name(latin1_url: str, tmp_path: Path) -> None:
    """The lock holder's name has non-ASCII letters: PostgreSQL drops them, but a waiter reads the full name."""
    ini = tree(tmp_path, "pass")
    holder = await locked(latin1_url, ini, INSTANCE)
    other = assembled(latin1_url, ini, "two").session()
    await other.open()
    try:
        seen = await other.lock_status()
        assert seen.holder is not None
        assert seen.holder.instance == INSTANCE
        assert {member.instance for member in seen.fleet} == {INSTANCE, "two"}
    finally:
        await other.close()
        await holder.close()


async def test_a_failure_through_a_pooler_is_recorded(
    pgbouncer: Callable[..., PgBouncer], latin1_url: str, tmp_path: Path
) -> None:
    """Behind PgBouncer, too, the package knows the database's encoding and records the failure escaped."""
    ini, name = tree(tmp_path, "pass", FAILS), urlsplit(latin1_url).path[1:]
    with pytest.raises(RevisionFailed, match=WORDS):
        await run(pgbouncer(pool_mode="transaction").url(name), ini, instance=INSTANCE)
    row = await row_of(latin1_url, "r2")
    assert (row["outcome"], row["instance"]) == ("failed", r"\u0418\u043c\u044f \U0001f600")
    assert SPELT in row["error"]


@pytest.mark.parametrize("where", ["database", "revision"])
async def test_a_failure_is_recorded_in_another_client_encoding(database_url: str, tmp_path: Path, where: str) -> None:
    """The database's default client_encoding changes nothing; if a revision sets one, the error is stored escaped."""
    name = urlsplit(database_url).path[1:]
    sets = "with op.get_context().autocommit_block():\n    op.execute(\"SET client_encoding = 'LATIN1'\")"
    if where == "database":
        await fetch(database_url, f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'")
    ini = tree(tmp_path, sets if where == "revision" else "pass", FAILS)
    with pytest.raises(RevisionFailed, match=WORDS):
        await run(database_url, ini, instance=INSTANCE)
    row = await row_of(database_url, "r2")
    assert row["outcome"] == "failed"
    assert (SPELT if where == "revision" else WORDS) in row["error"]


async def test_a_run_that_times_out_is_recorded_under_a_long_name(latin1_url: str, tmp_path: Path) -> None:
    """A run times out: another session records that, and finds the attempt by the instance's non-ASCII name."""
    ini, limit = tree(tmp_path, 'op.execute("SELECT pg_sleep(60)")'), scaled(2)
    assembly = assembled(latin1_url, ini, INSTANCE * 40, run_seconds=limit)
    with pytest.raises(RevisionFailed, match=f"MIGRATION_RUN_SECONDS={limit:g}"):
        await assembly.coordinator().become_ready()
    rows = await fetch(latin1_url, f"SELECT outcome, error LIKE '%RUN_SECONDS%' FROM {HISTORY}")
    assert [tuple(row) for row in rows] == [("failed", True)]


async def test_a_revision_id_outside_the_encoding_is_refused(latin1_url: str, tmp_path: Path) -> None:
    """The version table cannot store a revision's id: the start is refused before it runs a revision."""
    ini = tree(tmp_path, "pass")
    path = tmp_path / "versions" / "r1.py"
    path.write_text(path.read_text().replace("revision = 'r1'", "revision = 'первая'"))
    with pytest.raises(ConfigurationError, match="revision id первая has a character that alembic_version"):
        await assembled(latin1_url, ini).coordinator().become_ready()
    assert await fetch(latin1_url, f"SELECT to_regclass('{HISTORY}')") == [(None,)]


async def test_a_failure_is_recorded_on_mariadb_mysql_and_sqlite(place: Place, tmp_path: Path) -> None:
    """MariaDB, MySQL and SQLite store the error unchanged; only half of a surrogate pair is escaped."""
    ini = tree(tmp_path, FAILS)
    assert WORDS in await failure(place, ini)
    [[outcome, error]] = place.rows(f"SELECT outcome, error FROM {HISTORY}")
    assert outcome == "failed"
    assert WORDS + r" … half \udcff" in error.replace("\\\\", "\\")


@pytest.mark.parametrize("change", ["CONVERT TO CHARACTER SET latin1", "MODIFY error text CHARACTER SET latin1"])
async def test_a_history_table_of_another_character_set_is_converted(
    each_mysql_place: MariaDBPlace, tmp_path: Path, change: str
) -> None:
    """The history table is in latin1: the next run converts it, records its error, and keeps the rows."""
    ini = tree(tmp_path, FAILS)
    await failure(each_mysql_place, ini)
    each_mysql_place.rows(f"UPDATE {HISTORY} SET error = 'é'")
    each_mysql_place.rows(f"ALTER TABLE {HISTORY} {change}")
    assert WORDS in await failure(each_mysql_place, ini)
    first, second = each_mysql_place.rows(f"SELECT error FROM {HISTORY} ORDER BY id")
    assert first == ["é"]
    assert WORDS in second[0]
    [row] = each_mysql_place.rows(f"SHOW CREATE TABLE {HISTORY}")
    assert "latin1" not in row[1]
