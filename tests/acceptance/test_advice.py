"""What the advice of an instance, or the runbook, says to type is typed, and the state is left."""

import html
import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import evidence, project
from tests.support.fakes import in_the_way
from tests.support.fleet import Instance, fleet, migrate, until_all_ready, until_one_migrates, until_phase
from tests.support.project import Revision
from tests.support.servers import Server, fetch_sync
from tests.support.shell import commands, psql_on_path, type_in, until_advised, works
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

OWNER, OTHER = (f"{what}_{os.getpid()}" for what in ("advised", "report"))
OWNED = """
    DO $$ DECLARE owned text; BEGIN
        GRANT CREATE ON SCHEMA public TO {owner};
        FOR owned IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
        LOOP EXECUTE format('ALTER TABLE %I OWNER TO {owner}', owned); END LOOP;
        GRANT SELECT ON ALL TABLES IN SCHEMA public TO {other};
    END $$
"""


@dataclass(frozen=True)
class Roles:
    """The URLs of one database at head: its owner, who migrates, another role, and a superuser."""

    owner: str
    other: str
    superuser: str


@pytest.fixture
def roles(server: Server, ledger_url: str) -> Iterator[Roles]:
    """Create the two roles, and give the tables to the owner."""
    name = urlsplit(ledger_url).path[1:]
    for role in (OWNER, OTHER):
        server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    server.execute(OWNED.format(owner=OWNER, other=OTHER), database=name)
    owner, other = (server.url(name, user=role, password="secret") for role in (OWNER, OTHER))
    yield Roles(owner, other, ledger_url)
    for role in (OWNER, OTHER):
        server.execute(f"DROP OWNED BY {role} CASCADE", database=name)
        server.execute(f"DROP ROLE {role}")


@pytest.fixture(autouse=True)
def _psql(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the server's own psql on PATH, as on a database host."""
    psql_on_path(server, monkeypatch)


def status(url: str, ini: Path) -> dict[str, Any]:
    """Return what `./migrate.sh status --json` prints."""
    document: dict[str, Any] = json.loads(works("./migrate.sh status --json", url, ini))
    return document


def until_gone(url: str, pid: int) -> None:
    """Wait until the server has no session with this pid."""
    sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1"
    wait_until(lambda: not fetch_sync(url, sql, pid)[0][0], f"the end of session {pid}", seconds=60)


BLOCKED = (
    Revision("one", 'mark()\nop.execute("ALTER TABLE accounts ADD COLUMN note text")'),
    Revision("two", 'mark()\nop.execute("ALTER TABLE transactions ADD COLUMN note text")'),
    project.concurrent_index("three", "postings"),
)


@asynccontextmanager
async def blocked(
    roles: Roles, ini: Path, lock_timeout: str = "2"
) -> AsyncIterator[tuple[Sequence[int], Instance, Instance]]:
    """Let the sessions of three roles block one revision each; yield their pids, the lock holder and a waiter.

    Assert after the block that both instances become ready, and that each revision was applied once.
    """
    async with (
        in_the_way(roles.owner, "SELECT count(*) FROM accounts", "own") as own,
        in_the_way(roles.other, "SELECT count(*) FROM transactions", "report") as other,
        in_the_way(roles.superuser, "LOCK TABLE postings IN ROW EXCLUSIVE MODE", "admin") as admin,
    ):
        with fleet(2, roles.owner, ini=ini, MIGRATION_LOCK_TIMEOUT_SECONDS=lock_timeout) as instances:
            migrator = until_one_migrates(instances)
            (waiter,) = (instance for instance in instances if instance is not migrator)
            yield [session.get_server_pid() for session in (own, other, admin)], migrator, waiter
            until_all_ready(instances)
    assert evidence.marks(roles.superuser) == ["one", "two"]
    assert evidence.versions(roles.superuser) == ["three"]
    assert evidence.invalid_indexes(roles.superuser) == []


async def test_each_blocking_session_is_terminated_as_the_advice_says(roles: Roles, tmp_path: Path) -> None:
    """Sessions of the same role, of another one and of a superuser block revisions: each advice ends its session."""
    ini = project.make_history(tmp_path, *BLOCKED)
    async with blocked(roles, ini) as (pids, migrator, waiter):
        looks = migrator.health, waiter.health, lambda: status(roles.owner, ini)
        lacks = ["", f"GRANT pg_signal_backend TO {OWNER}", "Only a superuser"]
        for pid, look, lack in zip(pids, looks, lacks, strict=True):
            advice = until_advised(look, f"pid {pid}")
            assert lack in f"{advice['text']} {advice['commands']}"
            page = html.unescape(waiter.get("/health/migrations", accept="text/html").text)
            assert look != waiter.health or advice["commands"][-1] in page
            for command in advice["commands"]:
                works(command, roles.owner, ini, SUPERUSER_URL=roles.superuser)
            until_gone(roles.superuser, pid)


async def test_each_blocking_session_is_terminated_as_the_runbook_says(roles: Roles, tmp_path: Path) -> None:
    """Sessions of three roles block revisions: the runbook's lines show and terminate each of them."""
    terminate, grant, as_superuser, *_ = commands("Stuck migration")
    *_, see = commands("Where to look first")
    ini = project.make_history(tmp_path, *BLOCKED)

    def type_line(line: str, pid: int = 0) -> None:
        line = line.replace("<role>", OWNER).replace("<pid>", str(pid))
        works(line, roles.owner, ini, SUPERUSER_URL=roles.superuser)

    async with blocked(roles, ini, lock_timeout="0") as ((own, other, admin), migrator, _):

        def read(pid: int) -> str:
            until_advised(migrator.health, f"pid {pid}")
            return works("./migrate.sh status", roles.owner, ini)

        assert "this role cannot see" not in read(own)
        type_line(terminate, own)
        hidden = read(other)
        assert f"pid {other} (report, user {OTHER}, state hidden)" in hidden
        assert f"as a superuser, run GRANT pg_read_all_stats TO {OWNER}" in hidden
        type_line(see)
        assert f"pid {other} (report, user {OTHER}, idle in transaction for" in read(other)
        type_line(grant)
        type_line(terminate, other)
        until_advised(migrator.health, f"pid {admin}")
        type_line(as_superuser, admin)


def follow(instance: Instance, url: str, ini: Path) -> list[str]:
    """Type the commands that the instance advises, which must succeed, and return them."""
    advice = instance.health()["advice"]
    assert advice["text"].endswith("This instance becomes ready by itself once the database is at head.")
    for command in advice["commands"]:
        works(command, url, ini)
    commands: list[str] = advice["commands"]
    return commands


def test_held_instances_recover_after_the_advice_of_a_failed_revision(ledger_url: str, tmp_path: Path) -> None:
    """A revision fails and the instances hold: once the data is correct, the advised commands make both ready."""
    body = f"mark()\nassert op.get_bind().scalar({project.GATE}), 'the data is not fit'"
    ini = project.make_history(tmp_path, Revision("unfit", body))
    with fleet(2, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold") as instances:
        until_phase(instances, "failed")
        wait_until(lambda: all("by itself" in i.health()["advice"]["text"] for i in instances), "held", seconds=60)
        evidence.let_go(ledger_url)
        assert follow(instances[0], ledger_url, ini) == commands("Failed migration")
        until_all_ready(instances)
    assert evidence.marks(ledger_url) == ["unfit"]


def test_held_instances_recover_after_the_advice_of_a_dirty_schema(ledger_url: str, tmp_path: Path) -> None:
    """A revision is half applied and the instances hold: the advised commands repair it, and make both ready."""
    ini = project.make_history(
        tmp_path, project.half_applied(then=f"assert op.get_bind().scalar({project.GATE}), 'half way'")
    )
    with fleet(2, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold") as instances:
        until_phase(instances, "failed")
        for instance in instances:
            until_advised(instance.health, "half-applied revision")
        evidence.let_go(ledger_url)
        rerun, _ = commands("Dirty schema")
        assert follow(instances[1], ledger_url, ini) == [rerun, "./migrate.sh upgrade"]
        until_all_ready(instances)
    assert evidence.marks(ledger_url) == ["half", "half"]


def test_the_release_that_the_advice_names_is_the_one(ledger_url: str, tmp_path: Path) -> None:
    """An unknown release migrated the database: the advice names its revision, and an instance of it serves."""
    newer = project.make_history(tmp_path, project.quick("newer"))
    assert migrate("upgrade", url=ledger_url, ini=newer)[0] == 0
    fetch_sync(ledger_url, "DELETE FROM alembic_version_history WHERE revision = 'newer'")
    with fleet(1, ledger_url, MIGRATION_ON_FAILURE="hold") as (old,):
        until_phase([old], "failed")
        assert old.health()["state"] == "diverged"
        advice = old.health()["advice"]
        assert "Deploy the release that contains newer" in advice["text"]
        (check,) = advice["commands"]
        assert type_in(check, ledger_url)[0] == 7
    works(check, ledger_url, newer)
    with fleet(1, ledger_url, ini=newer) as instances:
        until_all_ready(instances)
