"""SQL statements are classified by their first words."""

import pytest

from api.migrations.execution.statements import atomic, commits_by_itself, ends_transaction, kind, only_reads


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("CREATE UNIQUE INDEX CONCURRENTLY ix_secret ON t (a)", "CREATE UNIQUE INDEX CONCURRENTLY"),
        ("create index concurrently if not exists ix ON t (a)", "CREATE INDEX CONCURRENTLY"),
        ("\n  -- why\n  /* and\n how */ ALTER TABLE t VALIDATE CONSTRAINT c", "ALTER TABLE"),
        ("UPDATE people SET password = 'hunter2'", "UPDATE"),
        ("INSERT INTO people VALUES ('hunter2')", "INSERT"),
        ("SELECT 'hunter2'::integer", "SELECT"),
        ("WITH hunter2 AS (SELECT 1) DELETE FROM t", "WITH"),
        ('DROP TABLE"hunter2"', "DROP TABLE"),
        ("DO $$ BEGIN PERFORM hunter2(); END $$", "DO"),
        ("hunter2", "statement"),
        ("-- hunter2", "statement"),
        ("", "statement"),
    ],
)
def test_a_statement_s_kind_is_its_first_words(statement: str, expected: str) -> None:
    """The kind of a statement is its first words, without any name or value."""
    assert kind(statement) == expected


@pytest.mark.parametrize("statement", ["COMMIT", "commit;", "-- now\nEND", "ABORT WORK", "COMMIT AND CHAIN"])
def test_a_statement_that_ends_the_transaction_is_recognized(statement: str) -> None:
    """Every synonym of COMMIT and ROLLBACK is recognized as the end of the transaction."""
    assert ends_transaction(statement)


@pytest.mark.parametrize(
    "statement",
    ["ROLLBACK TO SAVEPOINT s", "ROLLBACK TO s", "COMMIT PREPARED 'x'", "RELEASE s", "SELECT 'COMMIT'", "COMMENT", ""],
)
def test_a_statement_on_a_savepoint_does_not_end_the_transaction(statement: str) -> None:
    """Statements on savepoints and prepared transactions do not end the transaction."""
    assert not ends_transaction(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE t (a int)",
        "/* why */ alter table t add b int",
        "DROP TABLE IF EXISTS t",
        "TRUNCATE t",
        "RENAME TABLE a TO b",
        "GRANT SELECT ON t TO u",
        "ANALYZE TABLE t",
        "LOCK TABLES t WRITE",
        "BEGIN",
        "CALL procedure_with_ddl()",
        "SET @@autocommit = 1",
        "SET STATEMENT lock_wait_timeout = 3 FOR ALTER TABLE t ADD COLUMN b int",
        "LOAD DATA INFILE 'x' INTO TABLE t",
        "/*!50000 CREATE TABLE t (a int) */",
        "",
    ],
)
def test_mysql_commits_before_ddl_and_unknown_statements(statement: str) -> None:
    """MySQL commits before DDL, and is assumed to before every statement that is not known to be harmless."""
    assert commits_by_itself(statement)


@pytest.mark.parametrize(
    ("statement", "reads"),
    [
        ("INSERT INTO t VALUES ('CREATE TABLE')", False),
        ("replace into t values (1)", False),
        ("WITH c AS (SELECT 1) DELETE FROM t", False),
        ("SAVEPOINT s", False),
        ("DO RELEASE_ALL_LOCKS()", False),
        ("CREATE TEMPORARY TABLE t (a int)", False),
        ("DROP  TEMPORARY TABLE t", False),
        ("SELECT 1", True),
        ("(SELECT 1)", True),
        ("-- drop\nSELECT 1", True),
        ("SHOW TABLES", True),
        ("SET SESSION lock_wait_timeout = 1", True),
    ],
)
def test_mysql_does_not_commit_before_dml_and_reads(statement: str, reads: bool) -> None:
    """MySQL does not commit before statements on rows and savepoints, and some of them only read."""
    assert (commits_by_itself(statement), only_reads(statement)) == (False, reads)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("ALTER TABLE t ADD COLUMN a int, ADD COLUMN b int", True),
        ("DROP TABLE t", True),
        ("DROP TABLE t, u", False),
        ("RENAME TABLE t TO u, v TO w", False),
        ("CALL p()", False),
        ("BEGIN NOT ATOMIC SELECT 1; END", False),
        ("SET STATEMENT max_statement_time = 1 FOR DROP TABLE t, u", False),
    ],
)
def test_atomic_ddl_of_mysql_is_recognized(statement: str, expected: bool) -> None:
    """A statement on one table is atomic in MySQL, and a procedure may execute anything."""
    assert atomic(statement) is expected


@pytest.mark.parametrize(
    ("statement", "reads"),
    [
        ('PRAGMA main.table_xinfo("things")', True),
        ("PRAGMA index_list(things)", True),
        ("PRAGMA database_list", True),
        ("PRAGMA foreign_keys = ON", False),
        ("PRAGMA journal_mode(WAL)", False),
    ],
)
def test_a_pragma_of_sqlite_that_inspects_the_schema_only_reads(statement: str, reads: bool) -> None:
    """The statements with which SQLAlchemy inspects a SQLite file only read; those that set an option do not."""
    assert only_reads(statement) is reads
