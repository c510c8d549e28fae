"""`plan` changes nothing in the database, drops its clone, and says what was measured and what goes by rule."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest

from api.migrations.cli import commands
from api.migrations.cli.plan.report import PlannedStatement, PlanReport
from api.migrations.cli.results import InEachScope
from api.migrations.core.protocols import MigrationRequest
from api.migrations.databases.backups import pg_dump
from api.migrations.databases.postgres import clone
from api.migrations.errors import SchemaRefused, UnknownRevision
from tests.conftest import fresh_name
from tests.support import backups
from tests.support.fakes import assembled, tree
from tests.support.places import MariaDBPlace
from tests.support.pooler import PgBouncer
from tests.support.project import PLAIN, ROOT
from tests.support.servers import Server, embedded_postgres, fetch, fetch_sync
from tests.support.waiting import FOREVER_SECONDS, wait_until

BEFORE_BOOKED_ON, BOOKED_ON = "bd60898a6f20", "097ced08409f"
TABLE = 'op.execute("CREATE TABLE orders (id int PRIMARY KEY, code text)")'
TENANTS = """
from alembic import context
connection = context.config.attributes["connection"]
for schema in ("tenant_a", "tenant_b"):
    connection.exec_driver_sql(f"SET search_path TO {schema}")
    connection.commit()
    context.configure(connection=connection, version_table_schema=schema)
    with context.begin_transaction():
        context.run_migrations()
"""
SECRET = "s3cret-value"
CLONES = "SELECT datname FROM pg_database WHERE starts_with(datname, 'plan_of_' || $1)"


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide all PostgreSQL programs but those of the test server, and make clones in several transactions."""
    monkeypatch.setattr(clone, "ENTRIES_AT_ONCE", 2)
    monkeypatch.setattr(pg_dump, "INSTALLED", tmp_path / "none")
    monkeypatch.setenv("PATH", backups.path())


@pytest.fixture
def orders(database_url: str, tmp_path: Path) -> Iterator["Orders"]:
    """Yield a database with one table and one applied revision."""
    orders = Orders(database_url, tmp_path)
    orders.upgrade()
    yield orders
    assert orders.clones() == [], "a clone was left behind"


class Orders:
    """A database at r1, and the history that a test puts on top."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.ini = tree(folder, TABLE)

    def upgrade(self, target: str = "head") -> None:
        """Apply the revisions."""
        asyncio.run(applied(self.url, self.ini, target))

    def plan(self, *bodies: str, env: str | None = None, **options: Any) -> PlanReport:
        """Return the plan of r1 and revisions with these bodies."""
        self.ini = tree(self.folder, TABLE, *bodies, **({"env": env} if env else {}))
        return asyncio.run(planned(self.url, self.ini, **options))

    def clones(self) -> list[str]:
        """Return the names of the clones of this database."""
        return [row[0] for row in fetch_sync(self.url, CLONES, self.url.rpartition("/")[2])]


async def applied(url: str, ini: Path, target: str) -> None:
    """Apply the revisions up to a target, for each version table that env.py names."""
    assembly = await assembled(url, ini).inspect(create_file=True)
    await assembly.operator_coordinator().execute(MigrationRequest("upgrade", target))


async def planned(url: str, ini: Path = PLAIN, settings: dict[str, Any] | None = None, **options: Any) -> PlanReport:
    """Return the plan."""
    arguments = Namespace(**{"revision": "head", "on": None, "rules": False, "sql": False, **options})
    return cast(PlanReport, await commands.plan(assembled(url, ini, **(settings or {})), arguments))


def every(report: PlanReport) -> list[PlannedStatement]:
    """Return all statements of a plan."""
    return [statement for revision in report.revisions for statement in revision.statements]


async def test_the_ledgers_own_history_is_measured_and_the_database_stays_as_it_is(tmp_path: Path) -> None:
    """A plan of the ledger's revisions names locks, sizes and durations; the server's log shows what was executed."""
    with embedded_postgres(log_statement="all", log_line_prefix="%d|") as server, server.database("ledger") as url:
        await applied(url, PLAIN, BEFORE_BOOKED_ON)
        await fetch(url, "ANALYZE")
        dump, log = dumped(url), server.process.log if server.process else tmp_path
        start = log.stat().st_size
        report = await planned(url, revision=BOOKED_ON)
        executed = statements_in(log.read_bytes()[start:].decode(), "ledger")
        assert dumped(url) == dump
        assert await fetch(url, "SELECT datname FROM pg_database WHERE starts_with(datname, 'plan_of_')") == []
    assert report.why_by_rule is None
    by_kind = {statement.kind: statement for statement in every(report)}
    column, validation = by_kind["ALTER TABLE ADD COLUMN"], by_kind["ALTER TABLE VALIDATE CONSTRAINT"]
    assert [(lock.on, str(lock.mode)) for lock in column.locks] == [("transactions", "ACCESS EXCLUSIVE")]
    assert (validation.reads, validation.how) == (("transactions",), "measured")
    # the validated check proves it
    assert by_kind["ALTER TABLE ALTER COLUMN SET NOT NULL"].reads == ()
    assert by_kind["UPDATE"].how == "by rule"
    assert report.sizes["transactions"].rows == 0
    reading = re.compile(r"SELECT|SET|BEGIN|COMMIT|SHOW|DEALLOCATE|LOCK TABLE .* IN ACCESS SHARE MODE")
    about_the_clone = re.compile(r'(CREATE|ALTER|DROP) DATABASE (IF EXISTS )?"?plan_of_ledger_')
    changing = [sql for sql in executed if not reading.match(sql) and not about_the_clone.match(sql)]
    assert changing == []
    assert not any(re.search(r"set_config\('[^']*role|pg_notify|advisory_lock\(", sql) for sql in executed)


def dumped(url: str) -> bytes:
    """Return schema and data."""
    # pg_dump writes a new random key into each plain dump
    output = subprocess.run(["pg_dump", url], check=True, capture_output=True).stdout
    return re.sub(rb"\\(un)?restrict \S+", b"", output)


def statements_in(log: str, database: str) -> list[str]:
    """Return the statements that a server's log has of one database, with their first lines."""
    return re.findall(rf"^{database}\|LOG:  (?:statement|execute [^:]*):\s+(\S.*)$", log, re.MULTILINE)


def test_a_plan_names_no_value_unless_asked_for_the_sql(orders: Orders) -> None:
    """Text and JSON have … for each literal of a statement; --sql shows the statements as they are."""
    body = f"op.execute(\"UPDATE orders SET code = '{SECRET}' WHERE id = 4711\")"
    report = orders.plan(body)
    for text in ("\n".join(report.lines()), json.dumps(report.as_json())):
        assert SECRET not in text
        assert "4711" not in text
    assert SECRET in "\n".join(orders.plan(body, sql=True).lines())


def test_nothing_pending_is_a_plan_too(orders: Orders) -> None:
    """At head the plan has no revisions and the command succeeds."""
    report = orders.plan()
    assert (report.revisions, report.exit_code) == ((), 0)
    assert report.message.startswith("nothing is pending")


def test_a_target_limits_the_plan(orders: Orders) -> None:
    """The plan ends at the revision that is named, or at the number of revisions."""
    bodies = ['op.execute("ALTER TABLE orders ADD COLUMN a int")', 'op.execute("ALTER TABLE orders ADD COLUMN b int")']
    assert [one.revision for one in orders.plan(*bodies, revision="r2").revisions] == ["r2"]
    assert [one.revision for one in orders.plan(*bodies, revision="+1").revisions] == ["r2"]
    with pytest.raises(UnknownRevision):
        orders.plan(*bodies, revision="nothing")


def test_a_database_that_cannot_be_upgraded_has_no_plan(orders: Orders) -> None:
    """A revision that this build does not know is refused with exit code 7, as by the other commands."""
    fetch_sync(orders.url, "UPDATE alembic_version SET version_num = 'other'")
    with pytest.raises(SchemaRefused) as raised:
        orders.plan()
    assert raised.value.exit_code == 7


def test_a_lock_that_is_held_already_is_named_with_its_line(orders: Orders) -> None:
    """An index that is built after ALTER TABLE in one transaction lets readers wait too, and the plan says so."""
    body = 'op.execute("ALTER TABLE orders ADD COLUMN a int")\nop.execute("CREATE INDEX ON orders (code)")'
    for by_rule in (False, True):
        first, second = every(orders.plan(body, rules=by_rule))
        [lock] = [each for each in second.locks if each.on == "orders"]
        assert (str(lock.mode), str(lock.held), lock.since) == ("SHARE", "ACCESS EXCLUSIVE", first.line)


def test_the_revision_that_fails_on_the_clone_and_the_later_ones_go_by_rule(orders: Orders) -> None:
    """What ran before it is measured, and the failure is shown."""
    add = 'op.execute("ALTER TABLE orders ADD COLUMN {} int")'
    report = orders.plan(add.format("a"), add.format("b") + '\nop.execute("SELECT 1/0")', add.format("c"))
    assert [statement.how for statement in every(report)] == ["measured", "by rule", "by rule", "by rule"]
    assert "revision r3, Do r3 failed" in str(report.why_by_rule)
    assert f"by rule, because {report.why_by_rule}" in list(report.lines())


def test_a_statement_that_reaches_beyond_the_clone_is_not_executed(orders: Orders) -> None:
    """A role and a setting of the server stay as they are, also in a DO block; the rest is measured."""
    name = orders.url.rpartition("/")[2]
    body = f'op.execute("CREATE ROLE {name}_new")\nop.execute("DO $$ BEGIN CREATE ROLE {name}_too; END $$")\n'
    role, block, column = every(orders.plan(body + 'op.execute("ALTER TABLE orders ADD COLUMN a int")'))
    assert fetch_sync(orders.url, "SELECT 1 FROM pg_roles WHERE starts_with(rolname, $1)", name) == []
    assert [one.how for one in (role, block, column)] == ["by rule", "by rule", "measured"]
    assert "not executed, because it reaches beyond the clone" in role.notes


def test_a_connection_of_a_revisions_own_is_refused(orders: Orders) -> None:
    """A revision that connects by itself would reach the database itself, so it goes by rule."""
    body = f"""
import sqlalchemy as sa
engine = sa.create_engine("{orders.url.replace("postgresql", "postgresql+psycopg")}", poolclass=sa.NullPool)
with engine.begin() as connection:
    connection.execute(sa.text("DROP TABLE orders"))
"""
    report = orders.plan(body)
    assert "connection of its own" in str(report.why_by_rule)
    assert fetch_sync(orders.url, "SELECT to_regclass('orders') IS NOT NULL")[0][0]


def test_an_env_py_with_its_own_connection_goes_by_rule(orders: Orders) -> None:
    """Its connection would lead to the database itself, so nothing runs."""
    env = f"""
import sqlalchemy as sa
from alembic import context
engine = sa.create_engine("{orders.url.replace("postgresql", "postgresql+psycopg")}", poolclass=sa.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
    report = orders.plan('op.execute("ALTER TABLE orders ADD COLUMN a int")', env=env)
    assert "env.py opens a connection of its own" in str(report.why_by_rule)
    assert [one.how for one in every(report)] == ["by rule"]
    assert fetch_sync(orders.url, "SELECT version_num FROM alembic_version")[0][0] == "r1"


def test_a_role_that_may_not_create_databases_gets_a_plan_by_rule(server: Server, orders: Orders) -> None:
    """The reason names the role, the statement that grants it, and the other way."""
    role = f"{orders.url.rpartition('/')[2]}_plain"
    server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'word' IN ROLE pg_read_all_data")
    try:
        url = server.url(orders.url.rpartition("/")[2], user=role, password="word")
        report = asyncio.run(planned(url, tree(orders.folder, TABLE, 'op.execute("DROP TABLE orders")')))
    finally:
        server.execute(f"DROP ROLE {role}")
    assert f"the role {role} may not create a database. To fix: run 'ALTER ROLE {role} CREATEDB'" in str(
        report.why_by_rule
    )
    [statement] = every(report)
    assert (statement.how, str(statement.locks[0].mode)) == ("by rule", "ACCESS EXCLUSIVE")


def test_each_schema_has_its_own_plan(orders: Orders) -> None:
    """If env.py loops over schemas, the names have the schema that the search path leads to, measured and by rule."""
    fetch_sync(orders.url, "CREATE SCHEMA tenant_a")
    fetch_sync(orders.url, "CREATE SCHEMA tenant_b")
    orders.ini = tree(orders.folder, TABLE, env=TENANTS)
    orders.upgrade()
    body = 'op.execute("ALTER TABLE orders ADD COLUMN a int")'
    for how, name in (("measured", "tenant_{}.orders"), ("by rule", "orders")):
        both = cast(InEachScope, orders.plan(body, env=TENANTS, rules=how == "by rule"))
        for tenant in "ab":
            report = cast(PlanReport, both.scopes[f"schema tenant_{tenant}"])
            [statement] = every(report)
            assert (statement.how, statement.locks[0].on) == (how, name.format(tenant))
            assert statement.locks[0].on in report.sizes


async def test_a_pooler_leads_to_a_plan_by_rule(orders: Orders, pgbouncer: Callable[..., PgBouncer]) -> None:
    """Through PgBouncer there is no clone, and the plan says so."""
    ini = tree(orders.folder, TABLE, 'op.execute("ALTER TABLE orders ADD COLUMN a int")')
    pooler = pgbouncer(pool_mode="transaction")
    report = await planned(pooler.url(orders.url.rpartition("/")[2]), ini)
    assert ("through a pooler" in str(report.why_by_rule), len(report.revisions)) == (True, 1)


def test_without_pg_dump_the_plan_goes_by_rule(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names the package to install."""
    monkeypatch.setenv("PATH", "/nothing")
    report = orders.plan('op.execute("DROP TABLE orders")')
    assert "pg_dump and pg_restore are not installed. To fix: install" in str(report.why_by_rule)


async def test_a_plan_does_not_wait_behind_a_table_lock(orders: Orders) -> None:
    """While another session holds a table, the plan goes by rule soon, and leaves the sizes out."""
    other = await asyncpg.connect(orders.url)
    await other.execute("BEGIN; LOCK TABLE orders")
    ini = tree(orders.folder, TABLE, 'op.execute("ALTER TABLE orders ADD COLUMN a int")')
    report = await planned(orders.url, ini, settings={"lock_timeout_seconds": 1})
    await other.close()
    assert "another session holds a table" in str(report.why_by_rule)
    assert report.sizes == {}


async def test_a_plan_does_not_wait_behind_a_materialized_view(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump waits without a limit for one that is being refreshed, so it is ended, and its locks with it."""
    monkeypatch.setattr(clone, "DUMP_SECONDS", 1.0)
    await fetch(orders.url, "CREATE MATERIALIZED VIEW codes AS SELECT code FROM orders")
    other = await asyncpg.connect(orders.url)
    await other.execute("BEGIN; REFRESH MATERIALIZED VIEW codes")
    ini = tree(orders.folder, TABLE, 'op.execute("ALTER TABLE orders ADD COLUMN a int")')
    report = await planned(orders.url, ini)
    await other.close()
    assert "pg_dump did not read the schema within 1 s" in str(report.why_by_rule)
    assert [one.how for one in every(report)] == ["by rule"]


def test_a_clone_that_cannot_be_dropped_is_named(server: Server, orders: Orders) -> None:
    """The plan does not say that the clone was dropped, and has the statement that drops it."""
    template = "UPDATE pg_database SET datistemplate = {} WHERE datname = {}"
    body = f'op.execute("{template.format("true", "current_database()")}")'
    report = orders.plan(body)
    [name] = orders.clones()
    server.execute(template.format("false", f"'{name}'"))
    server.execute(f"DROP DATABASE {name}")
    assert (report.clone, report.leftovers) == (name, [name])
    assert f"({name}, still there)" in report.message


def test_the_clone_may_be_on_another_server(orders: Orders, debian_postgres: Server) -> None:
    """With --on the clone is made there, and nothing but reads happens on the database's own server."""
    body = 'op.execute("ALTER TABLE orders ADD COLUMN a int")'
    report = orders.plan(body, on=debian_postgres.socket_url("postgres"))
    assert (report.why_by_rule, [one.how for one in every(report)]) == (None, ["measured"])
    left = debian_postgres.process and fetch_sync(debian_postgres.socket_url("postgres"), CLONES, "")
    assert left == []


def test_clones_that_were_left_behind_are_named(orders: Orders) -> None:
    """A plan that was killed could not drop its clone; the next one says how to."""
    name = f"plan_of_{fresh_name()}_20260101_000000_abcd"
    fetch_sync(orders.url, f"CREATE DATABASE {name}")
    try:
        report = orders.plan('op.execute("ALTER TABLE orders ADD COLUMN a int")')
    finally:
        fetch_sync(orders.url, f"DROP DATABASE {name}")
    assert name in report.leftovers
    assert f'DROP DATABASE "{name}";' in list(report.lines())[-1]


def test_ctrl_c_drops_the_clone(orders: Orders) -> None:
    """An interrupted plan exits with 130 and leaves no clone behind."""
    ini = tree(orders.folder, TABLE, 'op.execute("SELECT pg_sleep(600)")')
    environment = {**os.environ, "DATABASE_URL": orders.url, "MIGRATION_ALEMBIC_CONFIG": str(ini)}
    command = [sys.executable, "-m", "api.migrations", "plan"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        sleeping = (
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND starts_with(datname, $1)"
        )
        prefix = "plan_of_" + orders.url.rpartition("/")[2]
        wait_until(lambda: bool(fetch_sync(orders.url, sleeping, prefix)[0][0]), "the revision in the clone")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=FOREVER_SECONDS)
    assert (process.returncode, "Cancelled" in said) == (130, True), said


def test_the_last_time_comes_from_the_history(orders: Orders) -> None:
    """A similar statement names the revision that took so long, and an undone revision its own duration."""
    index = 'op.execute("CREATE INDEX ON orders (code)")'
    orders.ini = tree(orders.folder, TABLE, index)
    orders.upgrade()
    [statement] = every(orders.plan(index, index.replace("code", "id")))
    assert statement.last_time is not None
    assert (statement.last_time.revision, statement.last_time.same) == ("r2", "the same table")
    asyncio.run(
        assembled(orders.url, orders.ini).operator_coordinator().execute(MigrationRequest("stamp", "r1", purge=True))
    )
    [again, _] = orders.plan(index, index.replace("code", "id")).revisions
    assert again.last_time is not None
    assert again.last_time.same == "this revision"


def test_sqlite_names_statements_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lock modes the plan has the statements, their tables, and the reason."""
    monkeypatch.setenv("MIGRATION_STRATEGY", "advisory_lock")  # in a container the default refuses the file
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    ini = tree(
        tmp_path / "alembic", 'op.execute("CREATE TABLE t (a int)")', 'op.execute("ALTER TABLE t ADD COLUMN b int")'
    )
    asyncio.run(applied(url, ini, "r1"))
    report = asyncio.run(planned(url, ini))
    [statement] = every(report)
    assert (statement.kind, statement.table, statement.locks) == ("ALTER TABLE ADD COLUMN", "t", ())
    assert "what it locks is not known" in statement.notes
    assert "SQLite has one lock for the whole database" in str(report.why_by_rule)


async def test_mysql_names_statements_tables_and_sizes(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """MySQL and MariaDB have no lock modes here, but quoted names of tables and the server's estimate of their size."""
    url, add = each_mysql_place.url, 'op.add_column("order", sa.Column("b", sa.Integer()))'
    ini = tree(tmp_path, 'op.execute("CREATE TABLE `order` (a int)")', f"import sqlalchemy as sa\n{add}")
    await applied(url, ini, "r1")
    report = await planned(url, ini)
    [statement] = every(report)
    assert (statement.kind, statement.table, statement.locks) == ("ALTER TABLE ADD COLUMN", "order", ())
    assert report.sizes["order"].bytes > 0
    assert "cannot roll DDL back" in str(report.why_by_rule)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
async def test_another_driver_is_measured_too(orders: Orders, driver: str) -> None:
    """Revisions that run on the driver of the URL run on it in the clone."""
    ini = tree(orders.folder, TABLE, 'op.execute("ALTER TABLE orders ADD COLUMN a int")')
    report = await planned(orders.url.replace("postgresql", f"postgresql+{driver}"), ini)
    [statement] = every(report)
    assert (report.why_by_rule, statement.how, str(statement.locks[0].mode)) == (None, "measured", "ACCESS EXCLUSIVE")
