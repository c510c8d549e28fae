"""The runbook works as written: each command runs on a database in the state that its section describes.

`test_advice.py` types the lines about blocking sessions, `test_server_bad_days.py` those about connections.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.acceptance import holders
from tests.support import evidence, project
from tests.support.fleet import fleet, migrate, until_all_ready, until_one_migrates, until_phase
from tests.support.pooler import PgBouncer
from tests.support.project import PLAIN, Revision
from tests.support.servers import Server, fetch_sync, program
from tests.support.shell import SECTIONS, commands, psql_on_path, type_in, until_advised, works
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

DONE = {
    "Database unreachable",
    "Where to look first",
    "Stuck migration",
    "Failed migration",
    "Dirty schema",
    "INVALID indexes",
    "Rolling back",
    "Backup and restore",
    "Tables without a revision",
    "Database ahead",
    "Waiting too long",
    "Who may read what",
    "No connection left",
    "A pooler in between",
    "On a platform",
}


@pytest.fixture(autouse=True)
def _psql(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the server's own psql on PATH, as on a database host."""
    psql_on_path(server, monkeypatch)


def advised(url: str, ini: Path = PLAIN) -> list[str]:
    """Return the commands that `status` advises."""
    found: list[str] = json.loads(works("./migrate.sh status --json", url, ini))["advice"]["commands"]
    return found


def test_every_section_with_a_command_is_tested() -> None:
    """Each section of the runbook that contains a command is listed in this module."""
    assert {section for section in SECTIONS if commands(section)} == DONE


def test_a_caller_with_the_token_reads_the_health(ledger_url: str) -> None:
    """The runbook's lines make a token, and read the health of an instance that has it."""
    program("curl", "apt-get install curl")
    make, _, _, ask = commands("Who may read what")
    token = works(make, ledger_url).strip()
    with fleet(1, ledger_url, MIGRATION_HEALTH_TOKEN=token) as instances:
        until_all_ready(instances)
        ask = ask.replace("http://10.0.0.7:8000", instances[0].url(""))
        assert '"state":"at_head"' in works(ask, ledger_url, TOKEN=token)


def test_the_first_commands_succeed_at_head(ledger_url: str) -> None:
    """On a healthy database at head `status`, `history` and `doctor` of the first section succeed."""
    status, history, doctor, _ = commands("Where to look first")
    assert "at head" in works(status, ledger_url)
    assert "applied" in works(history, ledger_url)
    assert "0 failed" in works(doctor, ledger_url)


def test_unlock_lets_a_waiter_replace_a_frozen_process(ledger_url: str, tmp_path: Path) -> None:
    """The lock holder is frozen in mid-revision: `unlock` terminates its session, and a waiter finishes."""
    *_, unlock, _ = commands("Stuck migration")
    ini = project.make_history(tmp_path, holders.in_python(tmp_path))
    with fleet(2, ledger_url, ini=ini, MIGRATION_IDLE_SECONDS="0") as instances:
        frozen = until_one_migrates(instances)
        wait_until((tmp_path / "asleep").exists, "the revision in Python", seconds=60)
        frozen.kill(signal.SIGSTOP)
        evidence.let_go(ledger_url)
        assert advised(ledger_url, ini) == [unlock]
        assert "terminated session" in works(unlock, ledger_url, ini)
        until_all_ready([instance for instance in instances if instance is not frozen])
    assert evidence.marks(ledger_url) == ["in_python"]


def test_an_upgrade_replaces_a_job_that_never_ran(ledger_url: str, tmp_path: Path) -> None:
    """Strategy `job` and no job: the instances wait until the runbook's `upgrade` has migrated, then they are ready."""
    *_, upgrade = commands("Stuck migration")
    ini = project.make_history(tmp_path, project.quick())
    with fleet(2, ledger_url, ini=ini, MIGRATION_STRATEGY="job") as instances:
        until_phase(instances, "waiting")
        assert "no session holds the lock" in instances[0].health()["message"]
        assert instances[0].health()["advice"]["commands"] == [upgrade]
        works(upgrade, ledger_url, ini)
        until_all_ready(instances)


def test_a_failed_migration_succeeds_once_the_data_is_corrected(ledger_url: str, tmp_path: Path) -> None:
    """`history` shows the error; once the data is correct `upgrade` runs at once, and the waiters become ready."""
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
def test_a_dirty_schema_is_repaired(ledger_url: str, tmp_path: Path, how: str) -> None:
    """A revision is half applied: after either `repair` command of the runbook the next instance starts."""
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


def test_a_database_from_before_alembic_is_stamped(ledger_url: str, tmp_path: Path) -> None:
    """Tables and no revision: instances and commands refuse; after the runbook's command the later revision runs."""
    (stamp,) = commands("Tables without a revision")
    fetch_sync(ledger_url, "DROP TABLE alembic_version, alembic_version_history")
    ini = project.make_history(tmp_path, project.quick())
    with fleet(2, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold", MIGRATION_BASELINE="") as instances:
        until_phase(instances, "failed")
        assert [instance.health()["state"] for instance in instances] == ["unversioned"] * 2
        assert "MIGRATION_BASELINE=base" in instances[0].message()
        first, second = until_advised(instances[0].health, "declare the revision")["commands"]
        assert (first.replace("REV", "<revision>"), second) == (stamp, "./migrate.sh upgrade")
    for command, refused in {"upgrade": 7, "check": 7, "doctor": 1}.items():
        code, output = migrate(command, url=ledger_url, ini=ini, MIGRATION_BASELINE="")
        assert (code, "has tables (" in output) == (refused, True)
    works(stamp.replace("<revision>", project.head()), ledger_url, ini, MIGRATION_BASELINE="")
    with fleet(2, ledger_url, ini=ini, MIGRATION_BASELINE="") as instances:
        until_all_ready(instances)
    assert (evidence.marks(ledger_url), evidence.applied(ledger_url)) == (["quick"], ["quick"])


def test_an_invalid_index_is_dropped(ledger_url: str) -> None:
    """`status` prints the DROP INDEX statement for an INVALID index; after the runbook's command none is left."""
    (drop,) = commands("INVALID indexes")
    fetch_sync(ledger_url, "CREATE TABLE twice AS SELECT 1 AS a FROM generate_series(1, 2)")
    build = 'psql "$DATABASE_URL" -c "CREATE UNIQUE INDEX CONCURRENTLY ix_broken ON twice (a)"'
    assert type_in(build, ledger_url)[0] == 1
    assert "DROP INDEX CONCURRENTLY ix_broken;" in works("./migrate.sh status", ledger_url)
    works(drop, ledger_url)
    assert evidence.invalid_indexes(ledger_url) == []
    assert type_in(build, ledger_url)[0] == 1
    (command,) = advised(ledger_url)
    works(command, ledger_url)
    assert evidence.invalid_indexes(ledger_url) == []


def test_both_downgrades_need_yes_and_end_at_their_target(ledger_url: str) -> None:
    """Without a terminal both downgrade commands exit with 2; with --yes each ends at its target revision."""
    last, down_to = (line.replace("<revision>", project.revisions()[2]) for line in commands("Rolling back"))
    for line, expected in ((last, project.revisions()[-2]), (down_to, project.revisions()[2])):
        assert type_in(line, ledger_url)[0] == 2
        works(f"{line} --yes", ledger_url)
        assert evidence.versions(ledger_url) == [expected]


def test_a_backup_is_restored_by_the_command_in_the_history(server: Server, ledger_url: str, tmp_path: Path) -> None:
    """Both backup commands work, and the command in the history restores the newest backup beside the original."""
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


def test_check_names_the_release_for_a_newer_database(ledger_url: str, tmp_path: Path) -> None:
    """A newer release migrated the database: `check` exits with 7 and says which release to deploy."""
    (check,) = commands("Database ahead")
    newer = project.make_history(tmp_path, project.quick("newer"))
    assert migrate("upgrade", url=ledger_url, ini=newer)[0] == 0
    code, output = type_in(check, ledger_url)
    assert (code, "deploy the release that contains newer" in output) == (7, True), output


def test_wait_returns_when_an_instance_has_migrated(ledger_url: str, tmp_path: Path) -> None:
    """An instance migrates: the runbook's `wait` returns when the database is at head."""
    (wait,) = commands("Waiting too long")
    ini = project.make_history(tmp_path, project.slow("slow", 2))
    with fleet(1, ledger_url, ini=ini) as instances:
        until_one_migrates(instances)
        assert "at head" in works(wait, ledger_url, ini)
        until_all_ready(instances)


def test_status_says_why_the_database_is_unreachable() -> None:
    """No server listens: the runbook's `status` exits with 5, says why, and what to do."""
    (status,) = commands("Database unreachable")
    code, output = type_in(status, "postgresql://nobody@127.0.0.1:1/ledger")
    assert (code, "Connection refused" in output) == (5, True), output
    assert "what to do: Check that the database runs" in output


def test_an_index_needs_the_direct_url(pgbouncer: Callable[..., PgBouncer], ledger_url: str, tmp_path: Path) -> None:
    """Behind PgBouncer `doctor` reports a pooler and `upgrade` fails; with the direct URL the index is built."""
    (upgrade,) = commands("A pooler in between")
    ini = project.make_history(tmp_path, project.quick("marks"), project.concurrent_index())
    pooled = pgbouncer(pool_mode="transaction").url(urlsplit(ledger_url).path[1:])
    assert "a pooler is in between" in works("./migrate.sh doctor", pooled, ini)
    assert migrate("upgrade", url=pooled, ini=ini)[0] == 1
    works(upgrade, pooled, ini, DIRECT_URL=ledger_url)
    assert evidence.versions(ledger_url) == ["concurrent"]


@pytest.mark.parametrize("number", [0, 1])
def test_the_platform_s_command_runs_migrate_sh(ledger_url: str, tmp_path: Path, number: int) -> None:
    """The runbook's line runs with a stand-in for the platform's client: its command runs here and reports head."""
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
"""A stand-in for `kubectl get` and `kubectl run`: it runs the command here, with the pod's variables and no other."""


def test_a_manual_upgrade_on_kubernetes_uses_the_owner_s_url(ledger_url: str, tmp_path: Path) -> None:
    """The runbook's `kubectl run` migrates with the owner's URL from the Secret, and the history names the person."""
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
