"""The runbook, done as it is written: each command of a section, on a database in the state that it is about."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.acceptance import holders
from tests.support import evidence, project
from tests.support.fakes import in_the_way
from tests.support.fleet import environment, fleet, migrate, until_all_ready, until_one_migrates, until_phase
from tests.support.pooler import PgBouncer
from tests.support.project import PLAIN, ROOT, Revision
from tests.support.servers import Server, fetch_sync
from tests.support.waiting import FOREVER_SECONDS, wait_until

pytestmark = pytest.mark.acceptance

RUNBOOK = (ROOT / "docs" / "operations.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.M | re.S))
DONE = {
    "Where to look first",
    "Stuck migration",
    "Failed migration",
    "Dirty schema",
    "INVALID indexes",
    "Rolling back",
    "Backup and restore",
    "Database ahead",
    "Waiting too long",
    "No connection left",
    "A pooler in between",
    "On a platform",
}
BLOCKED = Revision("blocked", 'mark()\nop.execute("ALTER TABLE accounts ADD COLUMN note text")')


def commands(section: str) -> list[str]:
    """The commands in the boxes of a section."""
    boxes = re.findall(r"^```\n(.*?)^```", SECTIONS[section].replace("\\\n", ""), re.M | re.S)
    return [line for box in boxes for line in box.splitlines()]


@pytest.fixture(autouse=True)
def _psql(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's psql is that of the server, as on a database host."""
    if server.process is not None:
        monkeypatch.setenv("PATH", f"{server.process.binaries}{os.pathsep}{os.environ['PATH']}")


def type_in(command: str, url: str, ini: Path = PLAIN, **settings: str) -> tuple[int, str]:
    """Run a line of the runbook in a shell: exit code and output."""
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env=environment(url, VIRTUAL_ENV=sys.prefix, MIGRATION_ALEMBIC_CONFIG=str(ini), **settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=FOREVER_SECONDS,
    )
    return done.returncode, done.stdout


def works(command: str, url: str, ini: Path = PLAIN, **settings: str) -> str:
    """Run a line that must succeed; returns its output."""
    code, output = type_in(command, url, ini, **settings)
    assert code == 0, output
    return output


def test_every_section_with_a_command_is_done_here() -> None:
    """A section that is added to the runbook is added here."""
    assert {section for section in SECTIONS if commands(section)} == DONE


def test_where_to_look_first(ledger_url: str) -> None:
    """On a healthy database all three end well."""
    status, history, doctor = commands("Where to look first")
    assert "at head" in works(status, ledger_url)
    assert "applied" in works(history, ledger_url)
    assert "0 failed" in works(doctor, ledger_url)


async def test_stuck_behind_somebody(ledger_url: str, tmp_path: Path) -> None:
    """`status` names the pid; ended, the migration goes on by itself."""
    end, *_ = commands("Stuck migration")
    ini = project.make_history(tmp_path, BLOCKED)
    async with in_the_way(ledger_url, "SELECT * FROM accounts", "nightly-report"):
        with fleet(2, ledger_url, ini=ini, MIGRATION_LOCK_TIMEOUT_SECONDS="0") as instances:
            until_one_migrates(instances)
            seen: list[str] = []

            def named() -> bool:
                seen[:] = re.findall(r"pid (\d+) \(nightly-report, ", works("./migrate.sh status", ledger_url, ini))
                return bool(seen)

            wait_until(named, "the pid of the one in the way", seconds=60)
            works(end.replace("<pid>", seen[0]), ledger_url)
            until_all_ready(instances)
    assert evidence.marks(ledger_url) == ["blocked"]


def test_stuck_in_a_frozen_process(ledger_url: str, tmp_path: Path) -> None:
    """`unlock`, and the next one goes on."""
    _, unlock, _ = commands("Stuck migration")
    ini = project.make_history(tmp_path, holders.in_python(tmp_path))
    with fleet(2, ledger_url, ini=ini, MIGRATION_IDLE_SECONDS="0") as instances:
        frozen = until_one_migrates(instances)
        wait_until((tmp_path / "asleep").exists, "the revision in Python", seconds=60)
        frozen.kill(signal.SIGSTOP)
        evidence.let_go(ledger_url)
        assert "terminated session" in works(unlock, ledger_url, ini)
        until_all_ready([instance for instance in instances if instance is not frozen])
    assert evidence.marks(ledger_url) == ["in_python"]


def test_stuck_for_want_of_somebody_who_may(ledger_url: str, tmp_path: Path) -> None:
    """Strategy `job`, and no job has run: the same command is the job."""
    _, _, upgrade = commands("Stuck migration")
    ini = project.make_history(tmp_path, project.quick())
    with fleet(2, ledger_url, ini=ini, MIGRATION_STRATEGY="job") as instances:
        until_phase(instances, "waiting")
        assert "nobody holds the lock" in instances[0].health()["message"]
        works(upgrade, ledger_url, ini)
        until_all_ready(instances)


def test_a_failed_migration(ledger_url: str, tmp_path: Path) -> None:
    """The error is in the history; with the data in order `upgrade` runs at once, and those who waited are ready."""
    history, upgrade = commands("Failed migration")
    body = f"mark()\nassert op.get_bind().scalar({project.GATE}), 'the data is not fit'"
    ini = project.make_history(tmp_path, Revision("unfit", body))
    assert migrate("upgrade", url=ledger_url, ini=ini)[0] == 1
    assert "the data is not fit" in works(history, ledger_url, ini)
    evidence.repeat_first(ledger_url, "unfit", 7)
    with fleet(2, ledger_url, ini=ini) as instances:
        until_phase(instances, "waiting")
        evidence.let_go(ledger_url)
        works(upgrade, ledger_url, ini)
        until_all_ready(instances)


@pytest.mark.parametrize("how", ["run again", "declared done"])
def test_a_dirty_schema(ledger_url: str, tmp_path: Path, how: str) -> None:
    """Both ways out lead to a fleet that starts."""
    rerun, stamp = commands("Dirty schema")
    unless = f"assert op.get_bind().scalar({project.GATE}), 'half way'"
    ini = project.make_history(tmp_path, project.half_applied(then=unless))
    assert migrate("upgrade", url=ledger_url, ini=ini)[0] == 1
    assert migrate("check", url=ledger_url, ini=ini)[0] == 7
    evidence.let_go(ledger_url)
    works(rerun if how == "run again" else stamp, ledger_url, ini)
    with fleet(1, ledger_url, ini=ini) as instances:
        until_all_ready(instances)
    assert evidence.marks(ledger_url) == (["half", "half"] if how == "run again" else ["half"])


def test_an_invalid_index(ledger_url: str) -> None:
    """`status` gives the statement; after it there is none."""
    (drop,) = commands("INVALID indexes")
    fetch_sync(ledger_url, "CREATE TABLE twice AS SELECT 1 AS a FROM generate_series(1, 2)")
    build = 'psql "$DATABASE_URL" -c "CREATE UNIQUE INDEX CONCURRENTLY ix_broken ON twice (a)"'
    assert type_in(build, ledger_url)[0] == 1
    assert "DROP INDEX CONCURRENTLY ix_broken;" in works("./migrate.sh status", ledger_url)
    works(drop, ledger_url)
    assert evidence.invalid_indexes(ledger_url) == []


def test_rolling_back(ledger_url: str) -> None:
    """Without a terminal both ask for --yes; with it they undo what they say."""
    last, down_to = (line.replace("<revision>", project.revisions()[2]) for line in commands("Rolling back"))
    for line, expected in ((last, project.revisions()[-2]), (down_to, project.revisions()[2])):
        assert type_in(line, ledger_url)[0] == 2
        works(f"{line} --yes", ledger_url)
        assert evidence.versions(ledger_url) == [expected]


def test_backup_and_restore(server: Server, ledger_url: str, tmp_path: Path) -> None:
    """Both kinds, and the newest one restored beside the original by the command that the history has."""
    backup, upgrade, history, check = commands("Backup and restore")
    ini = project.make_history(tmp_path, project.quick())
    folder = {"MIGRATION_BACKUP_DIR": str(tmp_path / "backups")}
    works(backup, ledger_url, ini, **folder)
    works(upgrade, ledger_url, ini, **folder)
    (restore, _) = re.findall(r"(createdb .*&& pg_restore .*)$", works(history, ledger_url, ini), re.M)
    where = urlsplit(server.superuser_url)
    login = {"PGHOST": str(where.hostname), "PGPORT": str(where.port), "PGUSER": str(where.username)}
    works(restore, ledger_url, ini, **login)
    restored = f"{urlsplit(ledger_url).path[1:]}_restored"
    try:
        code, output = type_in(check, ledger_url, ini, RESTORED_URL=server.url(restored))
        assert (code, "1 pending" in output) == (3, True), output
    finally:
        server.execute(f'DROP DATABASE "{restored}"')


def test_a_database_ahead(ledger_url: str, tmp_path: Path) -> None:
    """`check` ends with 7 and says which release to deploy."""
    (check,) = commands("Database ahead")
    newer = project.make_history(tmp_path, project.quick("newer"))
    assert migrate("upgrade", url=ledger_url, ini=newer)[0] == 0
    code, output = type_in(check, ledger_url)
    assert (code, "deploy the release that contains newer" in output) == (7, True), output


def test_waiting_too_long(ledger_url: str, tmp_path: Path) -> None:
    """From a terminal one can see it finish."""
    (wait,) = commands("Waiting too long")
    ini = project.make_history(tmp_path, project.slow("slow", 2))
    with fleet(1, ledger_url, ini=ini) as instances:
        until_one_migrates(instances)
        assert "at head" in works(wait, ledger_url, ini)
        until_all_ready(instances)


def test_no_connection_left(ledger_url: str) -> None:
    """Who has them, most first."""
    (count,) = commands("No connection left")
    assert "application_name | state  | count" in works(count, ledger_url)


def test_a_pooler_in_between(pgbouncer: Callable[..., PgBouncer], ledger_url: str, tmp_path: Path) -> None:
    """With the direct endpoint a concurrent build works."""
    (upgrade,) = commands("A pooler in between")
    ini = project.make_history(tmp_path, project.quick("marks"), project.concurrent_index())
    pooled = pgbouncer(pool_mode="transaction").url(urlsplit(ledger_url).path[1:])
    assert "a pooler is in between" in works("./migrate.sh doctor", pooled, ini)
    assert migrate("upgrade", url=pooled, ini=ini)[0] == 1
    works(upgrade, pooled, ini, DIRECT_URL=ledger_url)
    assert evidence.versions(ledger_url) == ["concurrent"]


@pytest.mark.parametrize("number", [0, 1])
def test_on_a_platform(ledger_url: str, tmp_path: Path, number: int) -> None:
    """With a stand-in for the platform's client, which runs here what it is given to run there."""
    line = commands("On a platform")[number]
    client, inside = line.split()[0], line.index("./migrate.sh")
    stand_in = tmp_path / client
    stand_in.write_text(f'#!/bin/sh\ntest "{client} $*" = "{line}" && exec {line[inside:]}\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    assert "at head" in works(line, ledger_url, PLAIN, PATH=path)


KUBECTL = """
import json, os, sys
arguments = sys.argv[1:]
if arguments[0] == "get":
    sys.exit(print("registry.example.com/ledger:4f1c2d9"))
options, command = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
given = dict(option.split("=", 1) for option in options if "=" in option)
assert given["--image"] == "registry.example.com/ledger:4f1c2d9"
assert given["--override-type"] == "strategic"
(container,) = json.loads(given["--overrides"])["spec"]["containers"]
assert (options[:2], container["name"], options[-1]) == (["run", "by-hand"], "by-hand", "--command")
inside = {name: os.environ[name] for name in ("PATH", "VIRTUAL_ENV", "MIGRATION_ALEMBIC_CONFIG")}
secret = {"DATABASE_URL": os.environ["APP_URL"], "MIGRATION_DATABASE_URL": os.environ["OWNER_URL"]}
for each in container["env"]:
    inside[each["name"]] = each["value"] if "value" in each else secret[each["valueFrom"]["secretKeyRef"]["key"]]
name, value = given["--env"].split("=", 1)
os.execvpe(command[0], command, {**inside, name: value})
"""
"""`kubectl get` and `kubectl run`: what is given to run there is run here, with the pod's variables and no other."""


def test_by_hand_on_kubernetes(ledger_url: str, tmp_path: Path) -> None:
    """The pod has the owner's URL from the Secret, not the application's, and the history names the person."""
    _, _, line = commands("On a platform")
    ini = project.make_history(tmp_path, project.quick())
    (tmp_path / "stand_in.py").write_text(KUBECTL)
    stand_in = tmp_path / "kubectl"
    stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "stand_in.py"} "$@"\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    nowhere = "postgresql://app@127.0.0.1:1/ledger"
    works(line, nowhere, ini, PATH=path, USER="ann", APP_URL=nowhere, OWNER_URL=ledger_url)
    assert evidence.history(ledger_url)[-1]["instance"] == "ann"
