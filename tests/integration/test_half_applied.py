"""MariaDB and MySQL cannot roll back DDL: which revisions are half applied, which are not, and how they continue."""

import asyncio
from pathlib import Path

import pytest

from api.migrations.core.protocols import MigrationRequest
from api.migrations.core.schema import HalfApplied
from api.migrations.errors import DatabaseUnreachable, RevisionFailed, SchemaRefused
from tests.integration.sql_runs import GROUND, HEAD, MARK, failure, observe, outcomes, run_request
from tests.support.fakes import FOREVER_SECONDS, assembled, revision, tree
from tests.support.mariadb import USER, MariaDB
from tests.support.pace import scaled
from tests.support.places import MariaDBPlace, marks
from tests.support.waiting import until

PROCEDURE = """
    op.execute("CREATE PROCEDURE p() BEGIN ALTER TABLE marks ADD COLUMN b int; INSERT INTO nowhere VALUES (1); END")
"""
ONLY_ON_MARIADB = "a limit around it"
PARTLY = {
    ONLY_ON_MARIADB: (
        'op.execute("SET STATEMENT lock_wait_timeout = 3 FOR ALTER TABLE marks ADD COLUMN b int")\n'
        "raise ValueError('boom')",
        "SET",
    ),
    "a procedure that fails": ('op.execute("CALL p()")', "CALL"),
    "one of two tables": ('op.execute("DROP TABLE extra, nowhere")', "DROP TABLE"),
}
EACH = [("mariadb", name) for name in PARTLY] + [("mysql", name) for name in PARTLY if name != ONLY_ON_MARIADB]


@pytest.mark.parametrize(("each_mysql", "name"), EACH, indirect=["each_mysql"])
async def test_a_failed_statement_with_committed_ddl_is_half_applied(
    each_mysql_place: MariaDBPlace, tmp_path: Path, name: str
) -> None:
    """A statement fails after it committed DDL: the revision is recorded as half applied, not as rolled back."""
    body, kind = PARTLY[name]
    ground = GROUND + '\nop.execute("CREATE TABLE extra (a int)")\n' + PROCEDURE.strip()
    ini = tree(tmp_path, ground, body)
    assert "failed after it had committed a part of its work" in await failure(each_mysql_place, ini)
    assert outcomes(each_mysql_place)[-1] == ("r2", "half_applied")
    assert [half.statement for half in (await observe(each_mysql_place, ini)).half_applied] == [kind]


async def test_two_statements_in_one_string_are_refused_on_mysql(
    each_mysql_place: MariaDBPlace, tmp_path: Path
) -> None:
    """Two statements in one string: the server executes neither; a trigger's body counts as one statement."""
    both = 'op.execute("ALTER TABLE marks ADD COLUMN b int; ALTER TABLE nowhere ADD COLUMN c int")'
    ini = tree(tmp_path, GROUND, both)
    assert "failed and was rolled back" in await failure(each_mysql_place, ini)
    assert [row[0] for row in each_mysql_place.rows("SHOW COLUMNS FROM marks")] == ["revision"]
    trigger = "CREATE TRIGGER t BEFORE INSERT ON marks FOR EACH ROW BEGIN SET @a = 1; SET @b = 2; END"
    revision(tmp_path, "r2", f'op.execute("{trigger}")', after="r1")
    await run_request(each_mysql_place, ini)
    assert outcomes(each_mysql_place)[-1] == ("r2", "applied")


async def test_a_disconnected_session_writes_nothing(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """MySQL's error 4031 means that the session and its lock are lost: the run stops and records nothing."""
    idle = "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 4031, MESSAGE_TEXT = 'disconnected because of inactivity'"
    trigger = f"CREATE TRIGGER t BEFORE INSERT ON extra FOR EACH ROW {idle}"
    ground = f'{GROUND}\nop.execute("CREATE TABLE extra (a int)")\nop.execute("{trigger}")'
    ini = tree(tmp_path, ground, MARK.format("r2") + 'op.execute("INSERT INTO extra VALUES (1)")')
    with pytest.raises(DatabaseUnreachable):
        await run_request(each_mysql_place, ini)
    assert outcomes(each_mysql_place) == [("r1", "applied"), ("r2", "running")]
    assert marks(each_mysql_place) == []


async def test_an_error_with_any_letters_is_recorded_in_a_latin1_database(each_mysql: MariaDB, tmp_path: Path) -> None:
    """The database's default is latin1: the history table has its own character set and stores the error."""
    each_mysql.query(f"CREATE DATABASE latin CHARACTER SET latin1; GRANT ALL ON latin.* TO `{USER}`@`%`")
    place = MariaDBPlace(each_mysql, each_mysql.url("latin"))
    try:
        ini = tree(tmp_path, GROUND, MARK.format("r2") + "raise ValueError('ошибка 日本')")
        assert "ошибка 日本" in await failure(place, ini)
        assert outcomes(place)[-1] == ("r2", "failed")
    finally:
        each_mysql.query("DROP DATABASE latin")


async def test_a_statement_timeout_is_not_retried(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """MySQL's error 3024 is a statement timeout and no lock timeout: the revision fails without a retry."""
    limit = "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 3024, MESSAGE_TEXT = 'maximum execution time exceeded'"
    ini = tree(tmp_path, GROUND, f'op.execute("{limit}")')
    with pytest.raises(RevisionFailed, match="error 3024"):
        await asyncio.wait_for(run_request(each_mysql_place, ini), FOREVER_SECONDS)


async def test_refused_ddl_in_the_first_statement_is_rolled_back(
    each_mysql_place: MariaDBPlace, tmp_path: Path
) -> None:
    """The server refuses the first statement of a revision: the revision failed and is not half applied."""
    ini = tree(tmp_path, GROUND, 'op.execute("ALTER TABLE nowhere ADD COLUMN b int")')
    assert "failed and was rolled back: ProgrammingError (error 1146): Table `" in await failure(each_mysql_place, ini)
    assert outcomes(each_mysql_place) == [("r1", "applied"), ("r2", "failed")]
    assert (await observe(each_mysql_place, ini)).half_applied == ()


async def test_refused_ddl_after_an_insert_is_half_applied(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """The server refuses DDL, which first committed the INSERT before it: the revision is half applied."""
    ini = tree(tmp_path, GROUND, MARK.format("r2") + 'op.execute("ALTER TABLE nowhere ADD COLUMN b int")')
    assert "failed after it had committed a part of its work" in await failure(each_mysql_place, ini)
    assert marks(each_mysql_place) == ["r2"]
    assert (await observe(each_mysql_place, ini)).half_applied == (HalfApplied("r2", "ALTER TABLE"),)


async def test_ddl_that_waits_for_a_lock_is_retried(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """Another session locks the table: the DDL times out without effect, and the retry applies the revision."""
    ini = tree(tmp_path, GROUND)
    await run_request(each_mysql_place, ini)
    revision(tmp_path, "r2", 'op.execute("ALTER TABLE marks ADD COLUMN b int")', after="r1")
    upgrade = assembled(each_mysql_place.url, ini, lock_timeout_seconds=1, idle_seconds=scaled(1))
    with each_mysql_place.server.holding("LOCK TABLES marks READ", database=each_mysql_place.database):
        task = asyncio.create_task(upgrade.coordinator().become_ready())

        async def was_retried() -> bool:
            return ("r2", "retried") in outcomes(each_mysql_place)

        await until(was_retried, "an attempt without its lock", seconds=FOREVER_SECONDS)
    await asyncio.wait_for(task, FOREVER_SECONDS)
    assert outcomes(each_mysql_place)[-1] == ("r2", "applied")
    assert {outcome for _, outcome in outcomes(each_mysql_place)} == {"applied", "retried"}


@pytest.mark.parametrize(
    "order", [MigrationRequest("repair", "head"), MigrationRequest("stamp", "r2")], ids=["rerun", "stamp"]
)
async def test_a_half_applied_revision_is_refused_until_a_repair(
    each_mysql_place: MariaDBPlace, tmp_path: Path, order: MigrationRequest
) -> None:
    """A revision fails after DDL: every instance refuses to run it until an operator repairs or stamps it."""
    create = 'op.execute("CREATE TABLE IF NOT EXISTS u (a int)")\n'
    ini = tree(tmp_path, GROUND, create + MARK.format("r2") + "raise ValueError('boom')")
    message = await failure(each_mysql_place, ini)
    assert "failed after it had committed a part of its work: ValueError: boom" in message
    assert (await observe(each_mysql_place, ini)).half_applied == (HalfApplied("r2", "INSERT"),)
    assert each_mysql_place.has("u")
    assert marks(each_mysql_place) == []
    coordinator = assembled(each_mysql_place.url, ini, "two").coordinator()
    with pytest.raises(SchemaRefused, match="revision r2 committed a part of its work") as refused:
        await coordinator.become_ready()
    assert refused.value.exit_code == 7
    await run_request(each_mysql_place, ini, order)
    assert (await observe(each_mysql_place, ini)).half_applied == ()
    revision(tmp_path, "r2", create + MARK.format("r2"), after="r1")
    await assembled(each_mysql_place.url, ini, "two").coordinator().become_ready()
    assert marks(each_mysql_place) == (["r2"] if order.kind == "repair" else [])


async def test_a_half_applied_idempotent_revision_is_run_again(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """An idempotent revision is half applied: the next instance runs it again without a repair."""
    create = 'op.execute("CREATE TABLE IF NOT EXISTS u (a int)")\n'
    ini = tree(tmp_path, GROUND)
    revision(tmp_path, "r2", create + "raise ValueError('boom')", after="r1", extra="idempotent = True")
    await failure(each_mysql_place, ini)
    revision(tmp_path, "r2", create + MARK.format("r2"), after="r1", extra="idempotent = True")
    await assembled(each_mysql_place.url, ini, "two").coordinator().execute(HEAD)
    assert outcomes(each_mysql_place) == [("r1", "applied"), ("r2", "interrupted"), ("r2", "applied")]
    assert marks(each_mysql_place) == ["r2"]


async def test_a_temporary_table_does_not_commit_the_transaction(
    each_mysql_place: MariaDBPlace, tmp_path: Path
) -> None:
    """A revision creates a temporary table and fails: it is rolled back as a whole."""
    steps = 'op.execute("CREATE TEMPORARY TABLE tmp (a int)")\nop.execute("DROP TEMPORARY TABLE tmp")\n'
    ini = tree(tmp_path, GROUND, MARK.format("r2") + steps + "raise ValueError('boom')")
    assert "failed and was rolled back" in await failure(each_mysql_place, ini)
    assert marks(each_mysql_place) == []
