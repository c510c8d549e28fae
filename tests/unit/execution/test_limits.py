"""The statements that are exempt from the limits."""

import pytest

from api.migrations.execution.limits import blocks_no_session


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX CONCURRENTLY ix ON t (a)",
        "CREATE UNIQUE INDEX CONCURRENTLY ix ON t (a)",
        "create index concurrently if not exists ix on t (a)",
        "\n    CREATE  INDEX\n    CONCURRENTLY ix ON t (a)",
        "-- why\n/* and how */ CREATE INDEX CONCURRENTLY ix ON t (a)",
        "DROP INDEX CONCURRENTLY IF EXISTS ix",
        "REINDEX INDEX CONCURRENTLY ix",
        "REINDEX TABLE CONCURRENTLY t",
        "REINDEX (VERBOSE) TABLE CONCURRENTLY t",
        "ALTER TABLE t VALIDATE CONSTRAINT c",
        'ALTER TABLE ONLY "s"."t"\n    VALIDATE CONSTRAINT "c"',
    ],
)
def test_a_statement_that_blocks_no_session_has_no_limit(statement: str) -> None:
    """A statement that blocks no session, such as a concurrent index build, has no time limit."""
    assert blocks_no_session(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX ix ON t (a)",
        "CREATE UNIQUE INDEX ix ON t (a)",
        "CREATE INDEX concurrently_made ON t (a)",
        "DROP INDEX ix",
        "REINDEX TABLE t",
        "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
        "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID",
        "ALTER TABLE t ADD COLUMN a int",
        "ALTER TABLE t ADD COLUMN a int, VALIDATE CONSTRAINT c",
        "ALTER TABLE t VALIDATE CONSTRAINT c, ADD COLUMN a int",
        "ALTER TABLE t ADD COLUMN a int -- VALIDATE CONSTRAINT c",
        "REINDEX TABLE t -- CONCURRENTLY",
        "LOCK TABLE t IN ACCESS EXCLUSIVE MODE",
        "INSERT INTO notes VALUES ('CREATE INDEX CONCURRENTLY ix ON t (a)')",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
    ],
)
def test_a_statement_that_blocks_other_sessions_keeps_its_limit(statement: str) -> None:
    """A statement that blocks other sessions keeps its time limits."""
    assert not blocks_no_session(statement)
