"""Databases that cannot hold every character: a failure is recorded all the same, and recognised by the others."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from api.migrations.errors import ConfigurationError, RevisionFailed
from api.migrations.text.encoding import codec, holds
from tests.conftest import fresh_name
from tests.integration.sql_runs import failure
from tests.integration.test_history import locked, run
from tests.support.fakes import assembled, tree
from tests.support.pace import scaled
from tests.support.places import HISTORY, MariaDBPlace, Place
from tests.support.pooler import PgBouncer
from tests.support.servers import Server, fetch, fetch_sync

INSTANCE, RELEASE = "Имя 😀", "выпуск…"
WORDS = "Ошибка 😀"
FAILS = f'raise ValueError("{WORDS} … half \\udcff, none \\0")'
SPELT = r"ValueError: \u041e\u0448\u0438\u0431\u043a\u0430 \U0001f600 ... half \udcff, none \x00"


@pytest.fixture(params=["LATIN1", "SQL_ASCII", "EUC_TW", "WIN1251"])
def encoded_url(request: pytest.FixtureRequest, server: Server) -> Iterator[str]:
    """An empty database in that encoding."""
    with server.database(fresh_name(), encoding=request.param) as url:
        yield url


@pytest.fixture
def latin1_url(server: Server) -> Iterator[str]:
    """An empty database in LATIN1."""
    with server.database(fresh_name(), encoding="LATIN1") as url:
        yield url


async def row_of(url: str, revision: str) -> dict[str, Any]:
    """The newest attempt at a revision."""
    [row] = await fetch(url, f"SELECT * FROM {HISTORY} WHERE revision = '{revision}' ORDER BY id DESC LIMIT 1")
    return dict(row)


def test_what_python_takes_for_a_character_of_an_encoding_the_server_converts(database_url: str) -> None:
    """Of each encoding that a database of PostgreSQL's can have: no character that is stored unchanged is refused."""
    names = [row[0] for row in fetch_sync(database_url, "SELECT pg_encoding_to_char(i) FROM generate_series(0, 34) i")]
    assert {"LATIN1", "EUC_JIS_2004", "WIN1258", "UTF8"} <= set(names)
    for name in names:
        last = 0x10000 if name.startswith(("EUC", "UTF8")) else 0x3000
        kept = "".join(chr(i) for i in range(last) if holds(chr(i), (name,)))
        assert kept.startswith("\x01\x02"), f"{name} holds no ASCII"
        if codec(name) is not None:
            fetch_sync(database_url, "SELECT convert_to($1, $2)", kept, name)


async def test_a_failure_is_recorded(request: pytest.FixtureRequest, encoded_url: str, tmp_path: Path) -> None:
    """Nothing of its text is lost, and another process of the same release finds it again."""
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


async def test_the_holder_is_shown_by_its_name(latin1_url: str, tmp_path: Path) -> None:
    """PostgreSQL keeps ASCII only in the names of sessions; who waits reads what was given."""
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
    """PgBouncer tells the encoding of the database as the server does."""
    ini, name = tree(tmp_path, "pass", FAILS), urlsplit(latin1_url).path[1:]
    with pytest.raises(RevisionFailed, match=WORDS):
        await run(pgbouncer(pool_mode="transaction").url(name), ini, instance=INSTANCE)
    row = await row_of(latin1_url, "r2")
    assert (row["outcome"], row["instance"]) == ("failed", r"\u0418\u043c\u044f \U0001f600")
    assert SPELT in row["error"]


@pytest.mark.parametrize("where", ["database", "revision"])
async def test_another_client_encoding_is_heeded(database_url: str, tmp_path: Path, where: str) -> None:
    """A database's own default changes nothing; what a revision sets lasts for the session, and bounds what is sent."""
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


async def test_a_run_out_of_time_is_recorded(latin1_url: str, tmp_path: Path) -> None:
    """That record is made on another session, and finds the attempt by the instance's name."""
    ini, limit = tree(tmp_path, 'op.execute("SELECT pg_sleep(60)")'), scaled(2)
    assembly = assembled(latin1_url, ini, INSTANCE * 40, run_seconds=limit)
    with pytest.raises(RevisionFailed, match=f"MIGRATION_RUN_SECONDS={limit:g}"):
        await assembly.coordinator().become_ready()
    rows = await fetch(latin1_url, f"SELECT outcome, error LIKE '%RUN_SECONDS%' FROM {HISTORY}")
    assert [tuple(row) for row in rows] == [("failed", True)]


async def test_an_id_outside_the_encoding_is_refused(latin1_url: str, tmp_path: Path) -> None:
    """Alembic could not write it down when everything else is done."""
    ini = tree(tmp_path, "pass")
    path = tmp_path / "versions" / "r1.py"
    path.write_text(path.read_text().replace("revision = 'r1'", "revision = 'первая'"))
    with pytest.raises(ConfigurationError, match="revision id первая has a character that alembic_version"):
        await assembled(latin1_url, ini).coordinator().become_ready()
    assert await fetch(latin1_url, f"SELECT to_regclass('{HISTORY}')") == [(None,)]


async def test_a_failure_is_recorded_elsewhere(place: Place, tmp_path: Path) -> None:
    """MariaDB, MySQL and SQLite store every character but half of one."""
    ini = tree(tmp_path, FAILS)
    assert WORDS in await failure(place, ini)
    [[outcome, error]] = place.rows(f"SELECT outcome, error FROM {HISTORY}")
    assert outcome == "failed"
    assert WORDS + r" … half \udcff" in error.replace("\\\\", "\\")


@pytest.mark.parametrize("change", ["CONVERT TO CHARACTER SET latin1", "MODIFY error text CHARACTER SET latin1"])
async def test_a_history_of_another_character_set_is_converted(
    each_mysql_place: MariaDBPlace, tmp_path: Path, change: str
) -> None:
    """A restored or hand-made table would refuse the text of the failure; the rows that it has stay."""
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
