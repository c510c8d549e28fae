"""The kind of a statement, for messages that must not show the statement."""

import pytest

from api.migrations.statements import ends_transaction, kind


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
def test_only_the_first_words_are_told(statement: str, expected: str) -> None:
    """Neither a name nor a value comes along."""
    assert kind(statement) == expected


@pytest.mark.parametrize("statement", ["COMMIT", "commit;", "-- now\nEND", "ABORT WORK", "COMMIT AND CHAIN"])
def test_what_ends_a_transaction(statement: str) -> None:
    """Whatever it is called."""
    assert ends_transaction(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "ROLLBACK TO SAVEPOINT s",
        "ROLLBACK TO s",
        "COMMIT PREPARED 'x'",
        "RELEASE s",
        "SELECT 'COMMIT'",
        "COMMENT ON t",
        "",
    ],
)
def test_what_does_not(statement: str) -> None:
    """Savepoints and prepared transactions are other transactions' business."""
    assert not ends_transaction(statement)
