"""Every command of ./migrate.sh: what it does, what it prints, and its exit code."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from api.migrations.errors import MigrationError
from tests.support import evidence, warm
from tests.support.fleet import MARK, WAIT_SECONDS, environment, finish, migrate, start_migrate
from tests.support.pace import scaled
from tests.support.project import PLAIN, ROOT, head, held, make_history, quick, revisions
from tests.support.servers import fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

ALL = revisions()
SHELL_CODES = {0, 130, 143}
"""Success, SIGINT and SIGTERM: no error class has these codes."""


def run(*arguments: str, url: str, ini: Path = PLAIN) -> tuple[int, str]:
    """Run a command to its end; return its exit code and standard output."""
    own = environment(url, MIGRATION_ALEMBIC_CONFIG=str(ini))
    process = warm.run([sys.executable, "-m", "api.migrations", *arguments], cwd=ROOT, env=own)
    return process.returncode, process.stdout


def done(*arguments: str, url: str, ini: Path = PLAIN, **settings: str) -> str:
    """Run a command that must succeed; return its output."""
    code, output = migrate(*arguments, url=url, ini=ini, **settings)
    assert code == 0, output
    return output


def answer(*arguments: str, url: str, ini: Path = PLAIN) -> dict[str, Any]:
    """Run a command with --json; return the one object that it prints on standard output."""
    _, output = run(*arguments, "--json", url=url, ini=ini)
    result: dict[str, Any] = json.loads(output)
    return result


def test_upgrade_and_downgrade_end_at_their_target(database_url: str) -> None:
    """`upgrade` and `downgrade` to an id, a prefix, a number, head or base end at that revision and leave no lock."""
    for arguments, expected in [
        (["upgrade", ALL[1]], ALL[1:2]),
        (["upgrade", ALL[2][:5]], ALL[2:3]),
        (["upgrade"], ALL[-1:]),
        (["downgrade", "-1", "--yes"], ALL[-2:-1]),
        (["downgrade", ALL[3], "--yes"], ALL[3:4]),
        (["upgrade", "head"], ALL[-1:]),
        (["downgrade", "base", "--yes"], []),
    ]:
        done(*arguments, url=database_url)
        assert evidence.versions(database_url) == expected
        assert evidence.advisory_locks(database_url) == 0
    assert "nothing to undo" in done("downgrade", "base", "--yes", url=database_url)
    assert {row["outcome"] for row in evidence.history(database_url)} == {"applied"}


def test_a_downgrade_prints_what_it_undoes(ledger_url: str) -> None:
    """`downgrade` prints its plan, newest revision first with its description, and then each revision that it undid."""
    output = done("downgrade", ALL[-3], "--yes", url=ledger_url)
    assert "This undoes 2 revision(s)" in output
    assert output.index(ALL[-1]) < output.index(ALL[-2])
    assert f"{ALL[-1]}, Drop request_digest" in output
    assert f"Undid {ALL[-2]} (2 of 2)" in output


def test_check_exits_with_3_if_revisions_are_pending(ledger_url: str) -> None:
    """`check` exits with 0 at head, and with 3 and the command to run if revisions are pending; it changes nothing."""
    assert "at head" in done("check", url=ledger_url)
    done("stamp", ALL[-3], url=ledger_url)
    code, output = migrate("check", url=ledger_url)
    assert (code, output.count("\n")) == (3, 1)
    assert "2 pending. To fix: run './migrate.sh upgrade'" in output
    assert evidence.versions(ledger_url) == [ALL[-3]]


def test_stamp_sets_the_version_and_runs_no_revision(database_url: str) -> None:
    """`stamp head` on an empty database sets the version and records each revision as stamped; no table is created."""
    done("stamp", "head", url=database_url)
    assert evidence.versions(database_url) == [head()]
    rows = evidence.history(database_url)
    assert {row["revision"]: row["outcome"] for row in rows} == dict.fromkeys(ALL, "stamped")
    code, output = migrate("downgrade", "-1", "--yes", url=database_url)
    assert code == 1, output
    assert "failed and was rolled back" in output
    done("stamp", "base", url=database_url)
    assert evidence.versions(database_url) == []


def until_connected(instance: str, url: str) -> None:
    """Wait until the instance has a session in the database."""
    there = lambda: any(instance in name for name in evidence.sessions(url))  # noqa: E731
    wait_until(there, f"a session of {instance}", seconds=WAIT_SECONDS)


def test_wait_never_migrates(database_url: str) -> None:
    """No process migrates: `wait` times out with exit code 4, says that no session holds the lock, and runs nothing."""
    code, output = migrate("wait", "--timeout", f"{scaled(1):g}", url=database_url)
    assert code == 4, output
    assert f"{len(ALL)} pending; no session holds the lock" in output
    assert MARK not in output
    assert evidence.versions(database_url) == []


def test_wait_returns_when_another_process_has_migrated(database_url: str) -> None:
    """Another process migrates while `wait` runs: `wait` exits with 0 at head and runs no revision itself."""
    with start_migrate("wait", url=database_url, MIGRATION_INSTANCE="patient") as waiting:
        until_connected("patient", database_url)
        done("upgrade", url=database_url)
        code, output = finish(waiting)
    assert (code, MARK in output) == (0, False), output
    assert "at head" in output


RUN = {"state", "revisions", "steps", "message"}
ATTEMPT = {"id", "revision", "parents", "direction", "outcome", "instance", "release", "database_user"} | {
    "started_at",
    "finished_at",
    "attempts",
    "seconds",
    "error",
    "error_class",
    "statement",
    "invalid_before",
    "note",
    "description",
}


def test_every_command_prints_one_json_object(ledger_url: str) -> None:
    """With --json each command prints one object with a fixed set of keys, and nothing else, on standard output."""
    assert answer("current", url=ledger_url).keys() == {"revisions", "state", "message"}
    assert answer("check", url=ledger_url).keys() == {"state", "message"}
    undone = answer("downgrade", "-1", "--yes", url=ledger_url)
    assert undone.keys() == RUN
    assert (undone["revisions"], len(undone["steps"])) == ([ALL[-2]], 1)
    status = answer("status", url=ledger_url)
    assert status.keys() == {"state", "message", "revisions", "expected_heads", "pending"} | {
        "lock",
        "statement",
        "retry",
        "blocked_by",
        "elected",
        "fleet",
        "grant",
        "invalid_indexes",
        "advice",
    }
    assert status["lock"].keys() == {"key", "holder"}
    applied = answer("upgrade", url=ledger_url)
    assert applied.keys() == RUN
    assert (applied["state"], applied["revisions"]) == ("at_head", [head()])
    for arguments in (["upgrade"], ["wait"], ["stamp", "head"]):
        assert answer(*arguments, url=ledger_url).keys() == RUN
    attempts = answer("history", "--limit", "2", url=ledger_url)["history"]
    assert [attempt.keys() for attempt in attempts] == [ATTEMPT] * 2
    assert [attempt["invalid_before"] for attempt in attempts] == [[], []]
    assert answer("repair", "--rerun", url=ledger_url).keys() == {"message"}
    refused = answer("upgrade", "nope", url=ledger_url)
    assert refused.keys() == {"error", "message"}
    assert refused["error"] == "UnknownRevision"


@pytest.mark.parametrize("how", ["--rerun", "--stamp"])
def test_repair_changes_nothing_if_no_revision_is_half_applied(ledger_url: str, how: str) -> None:
    """No revision is half applied: `repair` exits with 0, says so, and leaves the history unchanged."""
    before = evidence.history(ledger_url)
    assert "nothing to repair" in done("repair", how, url=ledger_url)
    assert evidence.history(ledger_url) == before


def classes(base: type[MigrationError]) -> set[type[MigrationError]]:
    """Return `base` and all its subclasses."""
    return {base}.union(*map(classes, base.__subclasses__()))


def test_the_help_lists_the_exit_codes_of_the_errors() -> None:
    """`--help` lists exactly the exit codes of the error classes and those of a shell."""
    code, output = migrate("--help", url=None)
    assert code == 0
    table = output.partition("exit codes:")[2]
    found = re.findall(r"\s\s(\d+)(?:, (\d+))?\s\s", table)
    documented = {int(number) for numbers in found for number in numbers if number}
    assert documented == SHELL_CODES | {error.exit_code for error in classes(MigrationError)}


def test_a_database_without_a_history_table_gets_one(ledger_url: str, tmp_path: Path) -> None:
    """A database that Alembic alone migrated is at head without a history; the next upgrade creates the table."""
    fetch_sync(ledger_url, "DROP TABLE alembic_version_history")
    assert "no history yet" in done("history", url=ledger_url)
    assert "at head" in done("check", url=ledger_url)
    ini = make_history(tmp_path, quick("newer"))
    done("upgrade", url=ledger_url, ini=ini)
    told = done("history", url=ledger_url, ini=ini).splitlines()
    assert [line.split()[5] for line in told if " by " in line] == ["applied"]


def test_status_names_the_lock_holder_and_the_waiter(ledger_url: str, tmp_path: Path) -> None:
    """One process migrates and one waits: `status` names both and what is pending, `history` names the lock holder."""
    ini = make_history(tmp_path, held())
    with (
        start_migrate("upgrade", url=ledger_url, ini=ini, MIGRATION_INSTANCE="first") as first,
        start_migrate("wait", url=ledger_url, ini=ini, MIGRATION_INSTANCE="second") as second,
    ):
        runs = "the revision runs"
        wait_until(lambda: evidence.executing(ledger_url, "pg_sleep"), runs, seconds=WAIT_SECONDS)
        until_connected("second", ledger_url)
        status = answer("status", url=ledger_url, ini=ini)
        assert (status["state"], status["pending"]) == ("behind", ["held, Made by a test"])
        assert status["lock"]["holder"]["instance"] == "first"
        assert {(m["role"], m["instance"]) for m in status["fleet"]} == {("migrating", "first"), ("waiting", "second")}

        def tells_the_statement() -> bool:
            # the revision sleeps in many short statements, and between two of them `status` shows none
            statement = answer("status", url=ledger_url, ini=ini)["statement"]
            return bool(statement) and statement["kind"] == "SELECT"

        wait_until(tells_the_statement, "a statement", seconds=WAIT_SECONDS)
        output = done("status", url=ledger_url, ini=ini)
        assert re.search(r"^lock 0x[0-9a-f]{16} \(classid \d+, objid \d+\): held by first \(pid \d+, ", output, re.M)
        assert "pending: held, Made by a test\n" in output
        assert "session: waiting second (pid " in output
        evidence.let_go(ledger_url)
        outputs = [finish(process) for process in (first, second)]
    assert [(code, output.count(MARK)) for code, output in outputs] == [(0, 1), (0, 0)], outputs
    newest = done("history", "--limit", "1", url=ledger_url, ini=ini)
    assert re.search(r"\d\.\d{3} s  upgrade +applied +held, Made by a test  by first \(postgres\)\n$", newest), newest


def test_migrate_sh_works_from_another_folder(ledger_url: str, tmp_path: Path) -> None:
    """./migrate.sh runs in another folder with a relative alembic.ini: it uses the project's own and reports head."""
    own = environment(ledger_url, VIRTUAL_ENV=sys.prefix, MIGRATION_ALEMBIC_CONFIG="alembic.ini")
    script = warm.run([str(ROOT / "migrate.sh"), "current"], cwd=tmp_path, env=own)
    code, output = script.returncode, script.stdout
    assert (code, output) == (0, f"the database is at head ({head()})\n")


def test_a_relative_upgrade_counts_from_the_current_revision(database_url: str) -> None:
    """`upgrade +2` on a database at the first revision ends at the third."""
    assert migrate("upgrade", revisions()[0], url=database_url)[0] == 0
    assert migrate("upgrade", "+2", url=database_url)[0] == 0
    assert evidence.versions(database_url) == [revisions()[2]]
