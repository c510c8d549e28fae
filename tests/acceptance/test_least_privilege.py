"""An owner role migrates and an application role only reads and writes; names that need quoting work everywhere."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support import evidence
from tests.support.fleet import (
    MARK,
    WAIT_SECONDS,
    alembic,
    fleet,
    migrate,
    until_all_ready,
    until_one_migrates,
    until_phase,
)
from tests.support.manifests import grants
from tests.support.project import head, held, make_history, revisions
from tests.support.servers import Server, fetch, fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

OWNER, APP = (f"{what}_{os.getpid()}" for what in ("owner", "app"))
PASSWORD = "pa%ss@word"


@dataclass(frozen=True)
class Roles:
    """The URLs of one database for three roles."""

    superuser: str
    owner: str
    app: str


@pytest.fixture
def accounts(server: Server) -> Iterator[None]:
    """Create the two roles; drop them after the database that grants them privileges."""
    for role in (OWNER, APP):
        server.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    yield
    for role in (OWNER, APP):
        server.execute(f"DROP ROLE {role}")


@pytest.fixture
def roles(server: Server, accounts: None, database_url: str) -> Roles:
    """Return an empty database that has the grants of the guide for a first installation."""
    name = urlsplit(database_url).path[1:]
    for grant in grants():
        server.execute(grant.replace("ledger_owner", OWNER).replace("ledger_app", APP), database=name)
    owner, app = (server.url(name, user=role, password=PASSWORD) for role in (OWNER, APP))
    return Roles(database_url, owner, app)


async def test_the_owner_migrates_and_the_application_serves(roles: Roles) -> None:
    """Two instances have an owner's and an application's URL: the owner migrates, the application creates no table."""
    with fleet(2, roles.app, MIGRATION_DATABASE_URL=roles.owner) as instances:
        until_all_ready(instances)
        assert sum(instance.log().count(MARK) for instance in instances) == 1
        for instance in instances:
            opened = instance.post("/accounts", {"name": instance.name, "currency": "EUR"})
            assert opened.status_code == 201, opened.text
        owners = await fetch(roles.superuser, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
        assert [row[0] for row in owners] == [OWNER]
        assert PASSWORD not in "".join(instance.log() for instance in instances)
    assert {row["database_user"] for row in evidence.history(roles.superuser)} == {OWNER}
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await fetch(roles.app, "CREATE TABLE mine ()")


def test_at_head_the_application_role_alone_is_enough(roles: Roles) -> None:
    """At head, or while a job migrates, instances start with the application role, which reads the version table."""
    with fleet(1, roles.app, MIGRATION_STRATEGY="job") as instances:
        wait_until(
            lambda: instances[0].phase() == "waiting" or instances[0].process.poll() is not None,
            "waiting for the job",
            seconds=WAIT_SECONDS,
        )
        code, output = migrate("upgrade", url=roles.owner)
        assert code == 0, output
        until_all_ready(instances)
    with fleet(2, roles.app) as instances:
        until_all_ready(instances)
        assert MARK not in "".join(instance.log() for instance in instances)


def test_the_application_role_alone_cannot_migrate(roles: Roles) -> None:
    """With only the application role both instances fail, name the missing right, and leave no table or lock."""
    with fleet(2, roles.app, MIGRATION_ON_FAILURE="hold") as instances:
        until_phase(instances, "failed")
        for instance in instances:
            message = instance.health()["message"]
            assert "InsufficientPrivilegeError (SQLSTATE 42501): the text is in the log" in message
            assert "permission denied for schema public" in instance.log()
            assert "MIGRATION_DATABASE_URL to the role that owns the schema" in message
    assert evidence.versions(roles.superuser) == []
    assert evidence.advisory_locks(roles.superuser) == 0


def test_the_application_role_sees_the_lock_holder(roles: Roles, tmp_path: Path) -> None:
    """`status` as the application role names the lock holder and its pid, and says that its state is hidden."""
    ini = make_history(tmp_path, held())
    with fleet(1, roles.app, ini=ini, MIGRATION_DATABASE_URL=roles.owner) as (one,):
        until_one_migrates([one])
        applying = "the revision runs"
        wait_until(lambda: evidence.executing(roles.superuser, "pg_sleep"), applying, seconds=WAIT_SECONDS)
        code, output = migrate("status", "--json", url=roles.app, ini=ini)
        assert code == 0, output
        holder = json.loads(output)["lock"]["holder"]
        assert (holder["instance"], holder["state"]) == (one.name, None)
        assert holder["pid"] > 0
        code, output = migrate("status", url=roles.app, ini=ini)
        assert f"held by {one.name} (pid {holder['pid']}, state hidden)" in output
        fetch_sync(roles.owner, "CREATE TABLE let_go ()")
        until_all_ready([one])


WEIRD: dict[str, Any] = {
    "MIGRATION_VERSION_TABLE": 'Version\'s "%s" – table;--',
    "MIGRATION_VERSION_TABLE_SCHEMA": 'My-Schema "%(x)s" ünd',
    "MIGRATION_LOCK_NAME": 'it\'s "the" lock %s',
}


def quoted(name: str) -> str:
    """Quote an identifier for SQL."""
    return '"' + name.replace('"', '""') + '"'


def test_names_that_need_quoting_work_end_to_end(database_url: str, tmp_path: Path) -> None:
    """Table, schema and lock names have spaces, quotes, percent and Unicode: two instances and all commands work."""
    schema, table = (quoted(WEIRD[f"MIGRATION_VERSION_TABLE{end}"]) for end in ("_SCHEMA", ""))
    fetch_sync(database_url, f"CREATE SCHEMA {schema}")
    with fleet(2, database_url, ini=make_history(tmp_path), **WEIRD) as instances:
        until_all_ready(instances)
        assert sum(instance.log().count(MARK) for instance in instances) == 1
    assert [row[0] for row in fetch_sync(database_url, f"SELECT version_num FROM {schema}.{table}")] == [head()]

    def run(*arguments: str) -> str:
        code, output = migrate(*arguments, url=database_url, **WEIRD)
        assert code == 0, output
        return output

    assert len(json.loads(run("history", "--json"))["history"]) == len(revisions())
    assert head() in run("downgrade", "-1", "--yes")
    assert json.loads(run("current", "--json"))["revisions"] == [revisions()[-2]]
    run("stamp", head())
    assert "free" in run("status")
    run("check")
    run("repair", "--rerun")
    code, output = alembic("current", url=database_url, **WEIRD)
    assert (code, head() in output) == (0, True), output
    tables = fetch_sync(database_url, "SELECT 1 FROM pg_tables WHERE tablename LIKE 'alembic%'")
    assert tables == []
