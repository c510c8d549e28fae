"""Foreign keys on SQLite, which are off while a revision runs: what it breaks is found before COMMIT."""

from pathlib import Path

import pytest

from tests.integration.sql_runs import GROUND, MARK, failure, outcomes, run_request
from tests.support.fakes import tree
from tests.support.places import SqlitePlace


async def test_foreign_keys_are_looked_at_before_the_commit(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """They are off while a revision runs, or no table could be copied; what it breaks, it may not keep."""
    tables = 'op.execute("CREATE TABLE p (id integer primary key)")\n'
    tables += 'op.execute("CREATE TABLE c (p integer references p)")\nop.execute("INSERT INTO c VALUES (7)")'
    ini = tree(tmp_path, tables)
    message = await failure(sqlite_place, ini)
    assert "the revision leaves 1 rows whose foreign key references no row (c -> p)" in message
    assert not sqlite_place.has("c")


async def test_what_was_broken_before_is_nobodys_fault(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """A revision is not held to what it found."""
    sqlite_place.rows("CREATE TABLE p (id integer primary key)")
    sqlite_place.rows("CREATE TABLE c (p integer references p)")
    sqlite_place.rows("INSERT INTO c VALUES (7)")
    await run_request(sqlite_place, tree(tmp_path, GROUND))
    assert outcomes(sqlite_place) == [("r1", "applied")]


async def test_a_copied_table_is_not_blamed_for_what_it_brought_along(
    sqlite_place: SqlitePlace, tmp_path: Path
) -> None:
    """A batch numbers the rows and the foreign keys of its table anew."""
    for sql in ("p (id integer primary key)", "q (id integer primary key)", "c (p integer references p, q integer)"):
        sqlite_place.rows(f"CREATE TABLE {sql}")
    sqlite_place.rows("INSERT INTO c (rowid, p) VALUES (5, 7), (9, 8)")
    batch = 'with op.batch_alter_table("c") as batch:\n    batch.create_foreign_key("fk_q", "q", ["q"], ["id"])'
    await run_request(sqlite_place, tree(tmp_path, batch))
    assert outcomes(sqlite_place) == [("r1", "applied")]


async def test_a_table_without_row_numbers_is_looked_at_as_well(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """One more broken row is seen, though none has a number to be known by."""
    sqlite_place.rows("CREATE TABLE p (id integer primary key)")
    sqlite_place.rows("CREATE TABLE c (k text primary key, p integer references p) WITHOUT ROWID")
    sqlite_place.rows("INSERT INTO c VALUES ('old', 7)")
    message = await failure(sqlite_place, tree(tmp_path, "op.execute(\"INSERT INTO c VALUES ('new', 8)\")"))
    assert "the revision leaves 1 rows whose foreign key references no row (c -> p)" in message
    assert sqlite_place.rows("SELECT k FROM c") == [["old"]]


async def test_a_mismatched_key_is_left_out_and_said_once(
    sqlite_place: SqlitePlace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It points at a column that is not unique, so SQLite itself cannot check it; the other tables still are."""
    sqlite_place.rows("CREATE TABLE p (id integer primary key, code integer)")
    sqlite_place.rows("CREATE TABLE legacy (p integer references p (code))")
    sqlite_place.rows("CREATE TABLE c (p integer references p)")
    sqlite_place.rows("INSERT INTO legacy VALUES (7)")
    broken = 'op.execute("INSERT INTO c VALUES (7)")'
    message = await failure(sqlite_place, tree(tmp_path, GROUND, MARK.format("r2"), broken))
    assert "foreign key references no row (c -> p)" in message
    assert outcomes(sqlite_place) == [("r1", "applied"), ("r2", "applied"), ("r3", "failed")]
    warned = [record for record in caplog.records if getattr(record, "event", "") == "foreign_keys_unchecked"]
    assert [record.getMessage().partition(":")[0] for record in warned] == [
        "Cannot check the foreign keys of legacy, so their violations go unnoticed"
    ]
