"""The env.py of Alembic's own templates works untouched, on the connection and the driver that it chooses."""

import signal
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest

from tests.acceptance import holders
from tests.acceptance.shop import COPY, REVISION, Shop, adopted, fresh_project, python, shops
from tests.conftest import fresh_name
from tests.support import evidence
from tests.support.fleet import MARK, until_all_ready, until_one_migrates, until_phase
from tests.support.pace import scaled
from tests.support.servers import Server, fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

OWN = [
    ("generic", "psycopg2"),
    ("async", "psycopg"),
    ("pyproject", "psycopg"),
    ("pyproject_async", "asyncpg"),
]

CONCURRENTLY = """\
with op.get_context().autocommit_block():
    op.execute("CREATE INDEX CONCURRENTLY things_name ON things (name)")
"""


def untouched(folder: Path, template: str, driver: str, url: str, *, package: str = COPY) -> Path:
    """Create a project with the template's env.py, the database's URL in its alembic.ini, and three revisions."""
    project = fresh_project(folder, template, package=package)
    ini = project / "alembic.ini"
    own = url.replace("postgresql://", f"postgresql+{driver}://").replace("%", "%%")
    ini.write_text(ini.read_text().replace("driver://user:pass@localhost/dbname", own))
    third = REVISION.format(id="third", below="second", body=indent(CONCURRENTLY, "    "))
    (project / "alembic" / "versions" / "third.py").write_text(third)
    return project


def kinds_of_locks(url: str) -> int:
    """Return how many different advisory locks are held."""
    return len(fetch_sync(url, "SELECT DISTINCT classid, objid FROM pg_locks WHERE locktype = 'advisory' AND granted"))


def migrates_since(url: str) -> float:
    """Return for how many seconds the session that migrates has been in its transaction."""
    age = "coalesce(max(extract(epoch FROM clock_timestamp() - xact_start))::float8, 0)"
    return float(fetch_sync(url, f"SELECT {age} FROM pg_stat_activity WHERE {holders.MIGRATING}")[0][0])


def assert_migrated_once(url: str) -> None:
    """Check that each revision was applied once and that no lock is held."""
    assert evidence.applied(url) == ["first", "second", "third"]
    assert len(fetch_sync(url, "SELECT 1 FROM things")) == 1
    assert evidence.invalid_indexes(url) == []
    assert evidence.advisory_locks(url) == 0


@pytest.mark.parametrize(("template", "driver"), OWN, ids=lambda value: value)
def test_one_of_three_instances_migrates_with_an_untouched_template(
    database_url: str, tmp_path: Path, template: str, driver: str
) -> None:
    """Three instances start: one migrates on env.py's own connection, which holds a second lock, and all serve."""
    project = untouched(tmp_path, template, driver, database_url)
    with shops(3, database_url, project) as three:
        holder = until_one_migrates(three)
        wait_until(lambda: evidence.executing(database_url, "pg_sleep"), "the second revision runs")
        until_phase([shop for shop in three if shop is not holder], "waiting")
        assert kinds_of_locks(database_url) == 2
        for shop in three:
            assert shop.get("/health/live").status_code == 200
            assert shop.get("/health/ready").status_code == 503
            assert shop.health()["lock"]["holder"]["instance"] == holder.name
        evidence.let_go(database_url)
        until_all_ready(three)
        assert [shop.log().count(MARK) for shop in three] == [int(shop is holder) for shop in three]
        assert not any("never awaited" in shop.log() for shop in three)
    assert_migrated_once(database_url)


@pytest.mark.parametrize(
    ("template", "driver", "number"),
    [
        ("generic", "psycopg2", signal.SIGKILL),
        ("generic", "psycopg2", signal.SIGTERM),
        ("async", "asyncpg", signal.SIGKILL),
    ],
)
def test_a_waiter_takes_over_when_the_instance_that_migrates_dies(
    database_url: str, tmp_path: Path, template: str, driver: str, number: signal.Signals
) -> None:
    """The process that migrates is killed within a statement: its session ends, and a waiter repeats the revision."""
    project = untouched(tmp_path, template, driver, database_url)
    with shops(2, database_url, project) as both:
        holder = until_one_migrates(both)
        wait_until(lambda: evidence.executing(database_url, "pg_sleep"), "the second revision runs")
        (waiter,) = (shop for shop in both if shop is not holder)
        holder.kill(number)
        holder.wait()
        wait_until(lambda: waiter.log().count(MARK) == 1, "the waiter migrates")
        evidence.let_go(database_url)
        until_all_ready([waiter])
    assert_migrated_once(database_url)


def test_the_run_ends_when_the_first_session_is_lost(database_url: str, tmp_path: Path) -> None:
    """The session with the first lock is terminated: the session that migrates ends too, before another one begins."""
    project = untouched(tmp_path, "generic", "psycopg2", database_url)
    with shops(2, database_url, project) as both:
        until_one_migrates(both)
        wait_until(lambda: evidence.executing(database_url, "pg_sleep"), "the second revision runs")
        locking = "application_name ~ ':locking:' AND datname = current_database()"
        fetch_sync(database_url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {locking}")

        def begun_again() -> bool:
            assert holders.writers(database_url) <= 1, "two sessions migrate at once"
            return evidence.outcomes(database_url, "second") == ["interrupted", "running"]

        wait_until(begun_again, "the second revision runs again")
        evidence.let_go(database_url)
        until_all_ready(both)
    assert_migrated_once(database_url)


def test_commands_work_with_an_untouched_template(database_url: str, tmp_path: Path) -> None:
    """`upgrade`, `current`, `downgrade` and `stamp` of the command line run on env.py's own connection."""
    project = untouched(tmp_path, "async", "asyncpg", database_url)
    evidence.let_go(database_url)

    def command(*words: str) -> str:
        done = python(project, "-m", "shop.db_migrations", *words, url=database_url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command("upgrade", "first")
    assert evidence.versions(database_url) == ["first"]
    command("upgrade")
    assert_migrated_once(database_url)
    assert "third" in command("current")
    command("downgrade", "second", "--yes")
    assert evidence.versions(database_url) == ["second"]
    command("stamp", "third")
    assert evidence.versions(database_url) == ["third"]


def test_a_failing_revision_is_recorded_with_an_untouched_template(database_url: str, tmp_path: Path) -> None:
    """A revision fails on psycopg2: it is rolled back, recorded and named without its values; the exit code is 1."""
    project = untouched(tmp_path, "generic", "psycopg2", database_url)
    evidence.let_go(database_url)
    body = indent("op.execute(\"INSERT INTO things VALUES ('lost')\")\nop.execute(\"SELECT 'secret'::int\")", "    ")
    fourth = REVISION.format(id="fourth", below="third", body=body)
    (project / "alembic" / "versions" / "fourth.py").write_text(fourth)
    done = python(project, "-m", "shop.db_migrations", "upgrade", url=database_url)
    assert done.returncode == 1, done.stderr
    assert "revision fourth" in done.stderr
    assert "22P02" in done.stderr
    assert "secret" not in done.stderr
    assert evidence.outcomes(database_url, "fourth") == ["failed"]
    assert evidence.applied(database_url) == ["first", "second", "third"]
    assert len(fetch_sync(database_url, "SELECT 1 FROM things")) == 1
    assert evidence.advisory_locks(database_url) == 0


TENANTS = """
from sqlalchemy import create_engine, text
from alembic import context

engine = create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    for tenant in ("public", "tenant_a"):
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {tenant}"))
        connection.execute(text(f"SET search_path TO {tenant}"))
        connection.commit()
        connection.dialect.default_schema_name = tenant
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
"""


def test_each_schema_of_a_loop_is_migrated_on_a_pooled_connection(database_url: str, tmp_path: Path) -> None:
    """env.py loops over two schemas on one pooled connection: each is migrated once, and no lock or limit is left."""
    project = untouched(tmp_path, "generic", "psycopg2", database_url)
    (project / "alembic" / "env.py").write_text(TENANTS)
    evidence.let_go(database_url)
    for _ in range(2):
        done = python(project, "-m", "shop.db_migrations", "upgrade", url=database_url)
        assert done.returncode == 0, done.stderr
    for schema in ("public", "tenant_a"):
        assert len(fetch_sync(database_url, f"SELECT 1 FROM {schema}.things")) == 1
        rows = fetch_sync(database_url, f"SELECT revision, outcome FROM {schema}.alembic_version_history ORDER BY id")
        assert [tuple(row) for row in rows] == [(name, "applied") for name in ("first", "second", "third")]
    assert evidence.advisory_locks(database_url) == 0


@pytest.fixture
def other_url(server: Server) -> Iterator[str]:
    """Create a second database on the same server."""
    with server.database(fresh_name()) as url:
        yield url


def test_an_engine_for_another_database_is_refused(database_url: str, other_url: str, tmp_path: Path) -> None:
    """env.py connects to another database than DATABASE_URL names: the start fails before any DDL and names it."""
    project = untouched(tmp_path, "generic", "psycopg2", other_url)
    with shops(1, database_url, project, MIGRATION_ON_FAILURE="hold") as (one,):
        until_phase([one], "failed")
        assert "where this instance holds no lock" in one.health()["message"]
    for url in (database_url, other_url):
        assert fetch_sync(url, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []


def ready_without_a_lock(shop: Shop) -> bool:
    """Whether the instance found its own head and served."""
    return shop.log().count("Ready: ") == 1 and MARK not in shop.log()


def test_a_database_that_plain_alembic_migrated_is_at_head(database_url: str, tmp_path: Path) -> None:
    """Plain Alembic migrated the database before: an instance recognises it as at head and migrates nothing."""
    project = untouched(tmp_path, "generic", "psycopg2", database_url)
    evidence.let_go(database_url)
    done = python(project, "-m", "alembic", "upgrade", "head", url=database_url)
    assert done.returncode == 0, done.stderr
    with shops(1, database_url, project) as (one,):
        until_all_ready([one])
        assert ready_without_a_lock(one)


@pytest.mark.parametrize(("driver", "how"), [("psycopg", "run_env"), ("psycopg2", "the cookbook's")])
def test_revisions_run_on_the_driver_of_the_url(database_url: str, tmp_path: Path, driver: str, how: str) -> None:
    """DATABASE_URL names psycopg or psycopg2: one of two instances migrates on it, and a typed revision succeeds."""
    project = adopted(tmp_path, how)
    body = "op.get_bind().execute(__import__('sqlalchemy').text('CREATE TABLE n AS SELECT 1 AS a'))\n" + (
        "op.get_bind().execute(__import__('sqlalchemy').text('INSERT INTO n VALUES (:a)'), {'a': '2'})"
    )
    third = REVISION.format(id="third", below="second", body=indent(body, "    "))
    (project / "alembic" / "versions" / "third.py").write_text(third)
    url, idle = database_url.replace("postgresql://", f"postgresql+{driver}://"), scaled(1)
    # the session with the first lock executes nothing by itself while the other one runs revisions
    with shops(2, url, project, MIGRATION_IDLE_SECONDS=f"{idle:g}") as both:
        holder = until_one_migrates(both)
        wait_until(lambda: migrates_since(database_url) > 3 * idle, "a run of three times the idle limit")
        assert kinds_of_locks(database_url) == 2
        evidence.let_go(database_url)
        until_all_ready(both)
        assert [shop.log().count(MARK) for shop in both] == [int(shop is holder) for shop in both]
    assert [row[0] for row in fetch_sync(database_url, "SELECT a FROM n ORDER BY 1")] == [1, 2]
    assert_migrated_once(database_url)
