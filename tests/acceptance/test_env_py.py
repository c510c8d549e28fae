"""The package follows env.py: its version table and schema, its loops over schemas, its imports and its errors."""

import json
from pathlib import Path

import pytest

from tests.acceptance import env_py
from tests.support import evidence
from tests.support.fakes import tree
from tests.support.fleet import MARK, alembic, finish, fleet, migrate, start_migrate, until_all_ready
from tests.support.servers import fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


def tables(url: str) -> set[str]:
    """Return every table of the database as schema.table."""
    rows = fetch_sync(
        url, "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname !~ '^(pg_|information_)'"
    )
    return {row[0] for row in rows}


@pytest.fixture
def shop(database_url: str, tmp_path: Path) -> Path:
    """Migrate with plain Alembic to a version table of another name and schema; return the alembic.ini."""
    fetch_sync(database_url, "CREATE SCHEMA core")
    ini = env_py.shop(tmp_path, env_py.PLAIN)
    code, output = alembic("upgrade", "head", url=database_url, ini=ini)
    assert code == 0, output
    assert tables(database_url) == {"core.item", "core.shop_version"}
    return ini


@pytest.mark.parametrize("env", [env_py.PLAIN, env_py.RUN_ENV], ids=["kept", "run_env"])
def test_the_version_table_that_env_py_names_is_used(database_url: str, shop: Path, env: str) -> None:
    """env.py names its own version table: three instances and every command see head, and no revision runs again."""
    (shop.parent / "env.py").write_text(env)
    with fleet(3, database_url, ini=shop) as instances:
        until_all_ready(instances)
        assert [instance.health()["state"] for instance in instances] == ["at_head"] * 3
        assert [instance.log().count(MARK) for instance in instances] == [0] * 3
    for words in (["upgrade"], ["check"], ["status"]):
        code, output = migrate(*words, url=database_url, ini=shop)
        assert (code, "at head (r2)" in output) == (0, True), (words, output)
    code, output = migrate("doctor", url=database_url, ini=shop)
    assert (code, "version table: core.shop_version" in output) == (0, True), output
    assert fetch_sync(database_url, "SELECT id FROM core.item")[0][0] == 4200
    assert tables(database_url) == {"core.item", "core.shop_version"}


def test_the_history_table_is_created_beside_the_version_table(database_url: str, shop: Path) -> None:
    """`downgrade`, `stamp` and `upgrade` change env.py's version table and record each attempt in its schema."""
    for words in (["downgrade", "r1", "--yes"], ["stamp", "r2"], ["stamp", "r1"], ["upgrade"]):
        code, output = migrate(*words, url=database_url, ini=shop)
        assert code == 0, (words, output)
    assert tables(database_url) == {"core.item", "core.shop_version", "core.shop_version_history"}
    rows = fetch_sync(database_url, "SELECT direction || ' ' || revision FROM core.shop_version_history ORDER BY id")
    assert [row[0] for row in rows] == ["downgrade r2", "stamp r2", "stamp r1", "upgrade r2"]
    assert [row[0] for row in fetch_sync(database_url, "SELECT version_num FROM core.shop_version")] == ["r2"]


def test_a_manual_alembic_uses_the_version_table_of_env_py(database_url: str, shop: Path) -> None:
    """A manual `alembic current`, `upgrade` or `upgrade --sql` through `run_env` uses the version table of env.py."""
    (shop.parent / "env.py").write_text(env_py.RUN_ENV)
    code, output = alembic("current", url=database_url, ini=shop)
    assert (code, "r2 (head)" in output) == (0, True), output
    code, output = alembic("upgrade", "head", url=database_url, ini=shop)
    assert (code, MARK in output) == (0, False), output
    code, output = alembic("upgrade", "r1:r2", "--sql", url=database_url, ini=shop)
    assert (code, "UPDATE core.shop_version SET" in output) == (0, True), output
    assert fetch_sync(database_url, "SELECT id FROM core.item")[0][0] == 4200
    assert tables(database_url) == {"core.item", "core.shop_version"}


@pytest.mark.parametrize(
    "setting", ["MIGRATION_VERSION_TABLE=alembic_version", "MIGRATION_VERSION_TABLE_SCHEMA=public"]
)
@pytest.mark.parametrize("env", [env_py.PLAIN, env_py.RUN_ENV], ids=["kept", "run_env"])
def test_a_setting_that_contradicts_env_py_is_refused(database_url: str, shop: Path, env: str, setting: str) -> None:
    """A setting and env.py name different version tables or schemas: the command exits with 2 and names both."""
    (shop.parent / "env.py").write_text(env)
    name, value = setting.split("=")
    for words in (["upgrade"], ["stamp", "r1"]):
        code, output = migrate(*words, url=database_url, ini=shop, **{name: value})
        assert (code, name in output, value in output) == (2, True, True), output
        assert "shop_version" in output or "core" in output
    if env is env_py.RUN_ENV:
        code, output = alembic("upgrade", "head", url=database_url, ini=shop, **{name: value})
        assert (code, name in output, "Traceback" in output) == (1, True, False), output
    assert tables(database_url) == {"core.item", "core.shop_version"}


LOOPS = {
    "version_table_schema": env_py.BY_VERSION_TABLE_SCHEMA,
    "search_path": env_py.BY_SEARCH_PATH,
    "run_env": env_py.BY_RUN_ENV,
}


def tenants_url(url: str) -> str:
    """Create a schema for each tenant and the table that the revisions write into; return the URL."""
    for name in ("tenant_a", "Tenant B"):
        fetch_sync(url, f'CREATE SCHEMA IF NOT EXISTS "{name}"')
    fetch_sync(url, "CREATE TABLE public.log (tenant text, revision text)")
    return url


def logged(url: str) -> list[str]:
    """Return which revision ran for which tenant; a revision that ran twice has two entries."""
    return sorted(f"{row[0]} {row[1]}" for row in fetch_sync(url, "SELECT tenant, revision FROM public.log"))


EVERYTHING = sorted(f"{tenant} {revision}" for tenant in env_py.TENANTS for revision in ("r1", "r2"))


@pytest.mark.parametrize("env", LOOPS.values(), ids=LOOPS.keys())
def test_a_loop_over_schemas_migrates_each_schema_once(database_url: str, tmp_path: Path, env: str) -> None:
    """env.py loops over three schemas: of three instances one migrates each schema, and all show all schemas."""
    url, ini = tenants_url(database_url), env_py.tenants(tmp_path, env)
    with fleet(3, url, ini=ini) as instances:
        until_all_ready(instances)
        assert logged(url) == EVERYTHING
        for instance in instances:
            shown = instance.health()["schemas"]
            assert {name: one["state"] for name, one in shown.items()} == dict.fromkeys(env_py.TENANTS, "at_head")
    versions = [fetch_sync(url, f'SELECT version_num FROM "{name}".alembic_version')[0][0] for name in env_py.TENANTS]
    assert versions == ["r2"] * 3
    assert evidence.advisory_locks(url) == 0


def test_a_schema_behind_the_others_is_not_skipped(database_url: str, tmp_path: Path) -> None:
    """One of three schemas is behind: `check` exits with 3 and names it, and the next start migrates only that one."""
    url, ini = tenants_url(database_url), env_py.tenants(tmp_path, env_py.BY_VERSION_TABLE_SCHEMA)
    code, output = migrate("upgrade", url=url, ini=ini)
    assert code == 0, output
    fetch_sync(url, "UPDATE tenant_a.alembic_version SET version_num = 'r1'")
    fetch_sync(url, "DELETE FROM public.log WHERE tenant = 'tenant_a' AND revision = 'r2'")
    code, output = migrate("check", url=url, ini=ini)
    assert (code, "schema tenant_a" in output) == (3, True), output
    code, output = migrate("status", "--json", url=url, ini=ini)
    shown = json.loads(output)["schemas"]
    assert {name: len(one["pending"]) for name, one in shown.items()} == {"public": 0, "tenant_a": 1, "Tenant B": 0}
    with fleet(1, url, ini=ini) as instances:
        until_all_ready(instances)
    assert logged(url) == EVERYTHING


def test_a_killed_loop_over_schemas_continues_where_it_stopped(database_url: str, tmp_path: Path) -> None:
    """SIGKILL during the second schema: the next `upgrade` finishes the others and does not repeat the first."""
    url, ini = tenants_url(database_url), env_py.tenants(tmp_path, env_py.BY_VERSION_TABLE_SCHEMA)
    with start_migrate("upgrade", url=url, ini=ini) as first:
        wait_until(lambda: "public r2" in logged(url), "the first schema at head", seconds=60)
        first.kill()
        finish(first)
    code, output = migrate("upgrade", url=url, ini=ini)
    assert code == 0, output
    assert logged(url) == EVERYTHING


def test_a_failure_names_its_schema(database_url: str, tmp_path: Path) -> None:
    """A revision fails in one of three schemas: `upgrade` stops there, exits with 1 and names the schema."""
    url, ini = tenants_url(database_url), env_py.tenants(tmp_path, env_py.BY_VERSION_TABLE_SCHEMA)
    fetch_sync(url, "ALTER TABLE public.log ADD CHECK (tenant <> 'tenant_a')")
    code, output = migrate("upgrade", url=url, ini=ini)
    assert (code, "schema tenant_a: revision r1" in output) == (1, True), output
    assert logged(url) == ["public r1", "public r2"]


SLOW_IMPORT = """
import pathlib, sys, time
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import slow_models
from api.migrations.environment import run_env
run_env()
"""
SLOW_MODELS = """
import pathlib, time
here = pathlib.Path(__file__).parent
(here / "importing").touch()
while not (here / "let_go").exists():
    time.sleep(0.05)
"""


def test_env_py_imports_its_models_before_the_lock_is_acquired(database_url: str, tmp_path: Path) -> None:
    """While env.py imports its models `upgrade` has no session and no lock; afterwards it migrates."""
    ini = tree(tmp_path, 'op.execute("CREATE TABLE t (a int)")', env=SLOW_IMPORT)
    (tmp_path / "slow_models.py").write_text(SLOW_MODELS)
    budgets = {"MIGRATION_IDLE_SECONDS": "20", "MIGRATION_RUN_SECONDS": "60"}
    with start_migrate("upgrade", url=database_url, ini=ini, **budgets) as upgrade:
        wait_until(lambda: (tmp_path / "importing").exists(), "the import", seconds=60)
        assert evidence.advisory_locks(database_url) == 0
        assert evidence.sessions(database_url) == []
        (tmp_path / "let_go").touch()
        code, output = finish(upgrade)
    assert code == 0, output
    assert evidence.applied(database_url) == ["r1"]


OWN_ERRORS = {
    "a missing -x": (
        "from alembic import context\n"
        "context.config.attributes['connection']\n"
        "tenant = context.get_x_argument(as_dictionary=True)['tenant']\n",
        "KeyError: 'tenant', at env.py:3",
    ),
    "no cmd_opts": (
        "from alembic import context\ncontext.config.attributes['connection']\ncontext.config.cmd_opts.autogenerate\n",
        "AttributeError",
    ),
    "fileConfig": (
        "from logging import config\nfrom alembic import context\nconfig.fileConfig(context.config.config_file_name)\n",
        "KeyError",
    ),
    "exit": ("import sys\nsys.exit(0)\n", "SystemExit"),
    "in a transaction": (
        "from alembic import context\nconnection = context.config.attributes['connection']\n"
        "context.configure(connection=connection)\nwith connection.begin():\n    context.run_migrations()\n",
        "remove 'with connection.begin()'",
    ),
    "never runs": (
        "from alembic import context\ncontext.configure(connection=context.config.attributes['connection'])\n",
        "never context.run_migrations",
    ),
    "all in one": (
        "from api.migrations.environment import run_env\nrun_env(transaction_per_migration=False)\n",
        "remove transaction_per_migration there",
    ),
    "twice": (
        "from api.migrations.environment import run_env\nrun_env()\nrun_env()\n",
        "runs the revisions twice for the version table alembic_version",
    ),
}


@pytest.mark.parametrize(("env", "words"), OWN_ERRORS.values(), ids=OWN_ERRORS.keys())
def test_an_error_in_env_py_is_reported_unchanged(database_url: str, tmp_path: Path, env: str, words: str) -> None:
    """env.py raises, or runs no revisions: `upgrade` fails with that reason and no traceback, and creates no table."""
    ini = tree(tmp_path, "pass", env=env)
    code, output = migrate("upgrade", url=database_url, ini=ini)
    assert code != 0
    assert (words in output, MARK in output, "Traceback" in output) == (True, False, False), output
    assert tables(database_url) == set()


def test_doctor_reports_an_error_in_env_py(database_url: str, tmp_path: Path) -> None:
    """env.py raises: `doctor` exits with 1 and reports the same error as a start."""
    env, words = OWN_ERRORS["a missing -x"]
    code, output = migrate("doctor", url=database_url, ini=tree(tmp_path, "pass", env=env))
    assert (code, words in output) == (1, True), output


BY_ARGUMENT = """
from alembic import context
from api.migrations.environment import run_env

tenant = context.get_x_argument(as_dictionary=True)["tenant"]
context.config.attributes["tenant"] = tenant
run_env(version_table_schema=tenant)
"""


def test_arguments_for_env_py_are_passed_to_it(database_url: str, tmp_path: Path) -> None:
    """`migrate.sh upgrade -x tenant=…` migrates that tenant, like `alembic -x tenant=… upgrade head`."""
    url, ini = tenants_url(database_url), env_py.tenants(tmp_path, BY_ARGUMENT)
    code, output = migrate("upgrade", "-x", "tenant=tenant_a", url=url, ini=ini)
    assert code == 0, output
    code, output = alembic("-x", "tenant=public", "upgrade", "head", url=url, ini=ini)
    assert code == 0, output
    assert logged(url) == ["public r1", "public r2", "tenant_a r1", "tenant_a r2"]


def test_a_manual_upgrade_migrates_each_schema_of_a_loop(database_url: str, tmp_path: Path) -> None:
    """A manual `alembic upgrade head` migrates every schema for which a loop in env.py calls `run_env`."""
    url, ini = tenants_url(database_url), env_py.tenants(tmp_path, env_py.BY_RUN_ENV)
    code, output = alembic("upgrade", "head", url=url, ini=ini)
    assert (code, output.count(MARK)) == (0, len(env_py.TENANTS)), output
    assert logged(url) == [f"{tenant} {revision}" for tenant in env_py.TENANTS for revision in ("r1", "r2")]


FOLDERS = """
import pathlib
from alembic import context
from api.migrations.environment import run_env

here = pathlib.Path(__file__).parent
context.script.version_locations = [str(here / "versions"), str(here / "more")]
run_env()
"""


def test_version_folders_that_env_py_adds_are_used(database_url: str, tmp_path: Path) -> None:
    """env.py adds a version folder: `check` reports its revision as pending, and `alembic upgrade` applies it."""
    ini = tree(tmp_path, 'op.execute("CREATE TABLE t (a int)")', env=FOLDERS)
    (tmp_path / "more").mkdir()
    plain = (tmp_path / "versions" / "r1.py").read_text()
    more = (
        plain.replace("'r1'", "'r2'")
        .replace("down_revision = None", "down_revision = 'r1'")
        .replace("TABLE t", "TABLE u")
    )
    (tmp_path / "more" / "r2.py").write_text(more)
    code, output = migrate("upgrade", "r1", url=database_url, ini=ini)
    assert code == 0, output
    code, output = migrate("check", url=database_url, ini=ini)
    assert (code, "1 pending" in output) == (3, True), output
    code, output = alembic("upgrade", "head", url=database_url, ini=ini)
    assert code == 0, output
    with fleet(1, database_url, ini=ini) as instances:
        until_all_ready(instances)
    assert evidence.applied(database_url) == ["r1", "r2"]
