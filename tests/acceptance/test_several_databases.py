"""One service with several databases: the template `multidb` untouched, or a list of settings for the lifespan."""

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest

from tests.acceptance.shop import COPY, MAIN, REVISION, fresh_project, python, shops
from tests.conftest import fresh_name
from tests.support import evidence
from tests.support.fleet import MARK, until_all_ready, until_one_migrates, until_phase
from tests.support.servers import Server, fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

NAMES = ("engine1", "engine2")
FAIL = "if engine_name == 'engine2':\n    raise ValueError('boom')"


@pytest.fixture
def urls(server: Server) -> Iterator[dict[str, str]]:
    """Create two empty databases on the same server; return their URLs by their names in Alembic's configuration."""
    with server.database(fresh_name()) as first, server.database(fresh_name()) as second:
        yield dict(zip(NAMES, (first, second), strict=True))


def multidb(
    folder: Path, urls: dict[str, str], fail: str = "", *, driver: str = "psycopg2", package: str = COPY
) -> Path:
    """Create a project from the template `multidb`, with two revisions that run on each database."""
    project = fresh_project(folder, "multidb", package=package)
    ini = project / "alembic.ini"
    text = ini.read_text()
    for number, url in enumerate(urls.values(), 1):
        own = url.replace("postgresql://", f"postgresql+{driver}://").replace("%", "%%")
        text = text.replace(f"driver://user:pass@localhost/dbname{'' if number == 1 else number}\n", f"{own}\n")
    ini.write_text(text)
    for path in (project / "alembic" / "versions").glob("*.py"):
        written = path.read_text().replace("grade():", "grade(engine_name):")
        path.write_text(written)
    if fail:
        third = REVISION.format(id="third", below="second", body=indent(fail, "    "))
        (project / "alembic" / "versions" / "third.py").write_text(third.replace("grade():", "grade(engine_name):"))
    return project


def assert_migrated_once(url: str) -> None:
    """Check that both revisions were applied once and that no lock is held."""
    assert evidence.applied(url) == ["first", "second"]
    assert len(fetch_sync(url, "SELECT 1 FROM things")) == 1
    assert evidence.advisory_locks(url) == 0


def test_one_of_three_instances_migrates_both_databases(tmp_path: Path, urls: dict[str, str]) -> None:
    """Three instances start on the untouched template: each database is migrated once, and none is ready before."""
    first, second = urls.values()
    with shops(3, first, multidb(tmp_path, urls, driver="psycopg")) as three:
        until_one_migrates(three)
        wait_until(lambda: evidence.executing(first, "pg_sleep"), "the first database's second revision runs")
        evidence.let_go(first)
        wait_until(lambda: evidence.executing(second, "pg_sleep"), "the second database's second revision runs")
        for shop in three:
            assert shop.get("/health/ready").status_code == 503
            assert shop.health()["databases"]["engine1"]["state"] == "at_head"
        evidence.let_go(second)
        until_all_ready(three)
        for shop in three:
            shown = shop.health()["databases"]
            assert {name: one["state"] for name, one in shown.items()} == dict.fromkeys(NAMES, "at_head")
    for url in urls.values():
        assert_migrated_once(url)


def test_a_waiter_finishes_the_second_database(tmp_path: Path, urls: dict[str, str]) -> None:
    """SIGKILL while the second database is migrated: a waiter finishes it and does not repeat the first."""
    first, second = urls.values()
    evidence.let_go(first)
    with shops(2, first, multidb(tmp_path, urls)) as both:
        wait_until(lambda: evidence.executing(second, "pg_sleep"), "the second database's second revision runs")
        holder = until_one_migrates(both)
        (waiter,) = (shop for shop in both if shop is not holder)
        holder.kill(signal.SIGKILL)
        holder.wait()
        wait_until(lambda: MARK in waiter.log(), "the waiter migrates")
        evidence.let_go(second)
        until_all_ready([waiter])
    for url in urls.values():
        assert_migrated_once(url)


def test_a_failure_in_one_database_is_named(tmp_path: Path, urls: dict[str, str]) -> None:
    """A revision fails in the second database: the service is not ready and names it; the first stays at its head."""
    for url in urls.values():
        evidence.let_go(url)
    project = multidb(tmp_path, urls, FAIL)
    with shops(1, urls["engine1"], project, MIGRATION_ON_FAILURE="hold") as (one,):
        until_phase([one], "failed")
        health = one.health()
    assert "database engine2: revision third" in health["message"]
    assert health["databases"]["engine1"]["state"] == "at_head"
    done = python(project, "-m", "shop.db_migrations", "status", "--json", url=urls["engine1"])
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)["databases"]
    assert {name: one["state"] for name, one in shown.items()} == {"engine1": "at_head", "engine2": "behind"}
    done = python(project, "-m", "shop.db_migrations", "check", url=urls["engine1"])
    assert (done.returncode, "database engine2: " in done.stderr) == (3, True), done.stderr


def test_databases_that_plain_alembic_migrated_are_at_head(tmp_path: Path, urls: dict[str, str]) -> None:
    """Plain Alembic migrated both before: an instance recognises each as at head and migrates nothing."""
    for url in urls.values():
        evidence.let_go(url)
    project = multidb(tmp_path, urls)
    done = python(project, "-m", "alembic", "upgrade", "head", url=None)
    assert done.returncode == 0, done.stderr
    with shops(1, urls["engine1"], project) as (one,):
        until_all_ready([one])
        assert MARK not in one.log()


@pytest.mark.parametrize(
    ("change", "named", "words"),
    [
        (("USE_TWOPHASE = False", "USE_TWOPHASE = True"), "engine1", "set USE_TWOPHASE = False"),
        (("", ""), "another", "but DATABASE_URL names"),
    ],
)
def test_what_cannot_be_made_safe_is_refused(
    tmp_path: Path, urls: dict[str, str], database_url: str, change: tuple[str, str], named: str, words: str
) -> None:
    """A two-phase transaction, or a DATABASE_URL that is none of the databases: refused before anything runs."""
    project = multidb(tmp_path, urls)
    env = project / "alembic" / "env.py"
    env.write_text(env.read_text().replace(*change, 1))
    done = python(project, "-m", "shop.db_migrations", "upgrade", url=urls.get(named, database_url))
    assert done.returncode != 0
    assert words in done.stderr, done.stderr
    for url in urls.values():
        assert fetch_sync(url, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []


LISTED = """\
import os

from shop.db_migrations import MigrationSettings

DATABASES = [
    MigrationSettings.load(alembic_section=name, database_url=os.environ[name.upper()]) for name in ("orders", "audit")
]
"""


def two_sections(folder: Path) -> Path:
    """Create a project with two sections in its alembic.ini, each with a history of its own, and one lifespan."""
    project = fresh_project(folder, "generic")
    (project / "alembic").rename(project / "orders")
    shutil.copytree(project / "orders", project / "audit")
    ini = project / "alembic.ini"
    section = "[{0}]\nscript_location = %(here)s/{0}\n"
    ini.write_text(re.sub(r"\A", section.format("orders") + section.format("audit"), ini.read_text()))
    for name in ("orders", "audit"):
        (project / name / "env.py").write_text("from shop.db_migrations.environment import run_env\n\nrun_env()\n")
    (project / "shop" / "databases.py").write_text(LISTED)
    main = MAIN.replace("lifespan=lifespan_with_migrations", "lifespan=lifespan_with_migrations(settings=DATABASES)")
    imported = f"from {COPY} import lifespan_with_migrations\n"
    (project / "shop" / "main.py").write_text(
        main.replace(imported, f"{imported}from shop.databases import DATABASES\n")
    )
    return project


def test_a_list_of_settings_is_ready_when_each_database_is(tmp_path: Path, urls: dict[str, str]) -> None:
    """Two sections, two databases: both instances serve when both are at head, and each is migrated once."""
    first, second = urls.values()
    with shops(2, None, two_sections(tmp_path), ORDERS=first, AUDIT=second) as both:
        wait_until(lambda: evidence.executing(first, "pg_sleep"), "the revision of orders runs")
        evidence.let_go(first)
        wait_until(lambda: evidence.executing(second, "pg_sleep"), "the revision of audit runs")
        assert [shop.get("/health/ready").status_code for shop in both] == [503, 503]
        evidence.let_go(second)
        until_all_ready(both)
        shown = both[0].health()["databases"]
        assert {name: one["state"] for name, one in shown.items()} == {"orders": "at_head", "audit": "at_head"}
        assert 'scope="database audit"' in both[0].get("/metrics").text
    for url in urls.values():
        assert_migrated_once(url)


def test_a_list_of_settings_names_the_database_that_fails(tmp_path: Path, urls: dict[str, str]) -> None:
    """A revision of the second database fails: the service is not ready, and says which."""
    for url in urls.values():
        evidence.let_go(url)
    project = two_sections(tmp_path)
    third = REVISION.format(id="third", below="second", body="    raise ValueError('boom')")
    (project / "audit" / "versions" / "third.py").write_text(third)
    settings = {"ORDERS": urls["engine1"], "AUDIT": urls["engine2"]}
    with shops(1, None, project, MIGRATION_ON_FAILURE="hold", **settings) as (one,):
        until_phase([one], "failed")
        health = one.health()
    assert "database audit: revision third" in health["message"]
    assert health["databases"]["orders"]["state"] == "at_head"
    assert evidence.versions(urls["engine2"]) == ["second"]
