"""What is not executed in a clone, and what the environment names meanwhile."""

import os

import pytest

from api.migrations.cli.plan.confinement import confined, reaches_beyond


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE ROLE app",
        "alter user app with password 'x'",
        "DROP DATABASE shop",
        "ALTER DATABASE shop SET search_path = a",
        "ALTER SYSTEM SET work_mem = '1GB'",
        "CREATE SUBSCRIPTION s CONNECTION 'host=a' PUBLICATION p",
        "COMMENT ON DATABASE shop IS 'x'",
        "GRANT CONNECT ON DATABASE shop TO app",
        "GRANT readers TO app",
        "REASSIGN OWNED BY a TO b",
        "DROP OWNED BY a",
        "COPY t TO '/tmp/file'",
        "COPY t FROM PROGRAM 'curl x'",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity",
        "SELECT dblink_exec('host=a', 'DELETE FROM t')",
        "DO $$ BEGIN EXECUTE 'CREATE ROLE app'; END $$",
        "DO $$ BEGIN GRANT readers TO app; END $$",
        "GRANT readers TO app; CREATE INDEX ON t (a)",
        "/* for the reports */ REVOKE readers FROM app",
        "CREATE /* for the reports */ ROLE app",
        "GRANT SET ON PARAMETER work_mem TO app",
        "SELECT pg_create_logical_replication_slot('a', 'pgoutput')",
    ],
)
def test_a_statement_about_the_server_reaches_beyond(sql: str) -> None:
    """Roles, databases, settings of the server, files, other sessions and other servers are outside the clone."""
    assert reaches_beyond(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE roles (id int)",
        "ALTER TABLE users ADD COLUMN role text",
        "GRANT SELECT ON t TO app",
        "GRANT SELECT ON t TO app WITH GRANT OPTION",
        "REVOKE GRANT OPTION FOR SELECT ON t FROM app",
        "DO $$ BEGIN GRANT SELECT ON t TO app; END $$",
        "ALTER TABLE t OWNER TO app",
        "CREATE INDEX CONCURRENTLY ix ON t (a)",
        "COPY t FROM stdin",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO app",
        "CREATE SCHEMA audit",
        "UPDATE t SET a = 1 WHERE role = 'x'",
    ],
)
def test_a_statement_about_the_database_does_not(sql: str) -> None:
    """What stays in the database is executed in the clone."""
    assert not reaches_beyond(sql)


def test_the_environment_names_the_clone_and_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision that reads the URL from the environment finds the clone's, and afterwards all is as before."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://real")
    monkeypatch.delenv("MIGRATION_DATABASE_URL", raising=False)
    with confined("postgresql://clone"):
        assert (os.environ["DATABASE_URL"], os.environ["MIGRATION_DATABASE_URL"]) == ("postgresql://clone",) * 2
    assert os.environ["DATABASE_URL"] == "postgresql://real"
    assert "MIGRATION_DATABASE_URL" not in os.environ
