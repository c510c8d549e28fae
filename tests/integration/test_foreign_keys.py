"""Foreign keys on SQLite are off while a revision runs; violations are found before COMMIT."""

from pathlib import Path

import pytest

from tests.integration.sql_runs import GROUND, MARK, failure, outcomes, run_request
from tests.support.fakes import tree
from tests.support.places import SqlitePlace


async def test_a_revision_that_violates_a_foreign_key_is_rolled_back(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """A revision leaves a row whose foreign key has no target: it fails before COMMIT and is rolled back."""
    tables = 'op.execute("CREATE TABLE p (id integer primary key)")\n'
    tables += 'op.execute("CREATE TABLE c (p integer references p)")\nop.execute("INSERT INTO c VALUES (7)")'
    ini = tree(tmp_path, tables)
    message = await failure(sqlite_place, ini)
    assert "the revision leaves 1 rows whose foreign key references no row (c -> p)" in message
    assert not sqlite_place.has("c")


async def test_an_earlier_violation_does_not_fail_a_revision(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """A foreign key was violated before the revision ran: the revision is applied."""
    sqlite_place.rows("CREATE TABLE p (id integer primary key)")
    sqlite_place.rows("CREATE TABLE c (p integer references p)")
    sqlite_place.rows("INSERT INTO c VALUES (7)")
    await run_request(sqlite_place, tree(tmp_path, GROUND))
    assert outcomes(sqlite_place) == [("r1", "applied")]


async def test_an_earlier_violation_in_a_copied_table_does_not_fail_a_revision(
    sqlite_place: SqlitePlace, tmp_path: Path
) -> None:
    """A batch copies a table with violated foreign keys and renumbers its rows: the revision is applied."""
    for sql in ("p (id integer primary key)", "q (id integer primary key)", "c (p integer references p, q integer)"):
        sqlite_place.rows(f"CREATE TABLE {sql}")
    sqlite_place.rows("INSERT INTO c (rowid, p) VALUES (5, 7), (9, 8)")
    batch = 'with op.batch_alter_table("c") as batch:\n    batch.create_foreign_key("fk_q", "q", ["q"], ["id"])'
    await run_request(sqlite_place, tree(tmp_path, batch))
    assert outcomes(sqlite_place) == [("r1", "applied")]


async def test_a_violation_in_a_table_without_rowid_is_found(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """A revision adds a violation to a WITHOUT ROWID table that already has one: it fails and reports one row."""
    sqlite_place.rows("CREATE TABLE p (id integer primary key)")
    sqlite_place.rows("CREATE TABLE c (k text primary key, p integer references p) WITHOUT ROWID")
    sqlite_place.rows("INSERT INTO c VALUES ('old', 7)")
    message = await failure(sqlite_place, tree(tmp_path, "op.execute(\"INSERT INTO c VALUES ('new', 8)\")"))
    assert "the revision leaves 1 rows whose foreign key references no row (c -> p)" in message
    assert sqlite_place.rows("SELECT k FROM c") == [["old"]]


async def test_a_mismatched_foreign_key_is_skipped_with_one_warning(
    sqlite_place: SqlitePlace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite cannot check a key whose target is not unique: one warning names its table, other tables are checked."""
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
