"""`migrate.sh` writes results to standard output, everything else to standard error, and JSON on request."""

import io
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.migrations.cli import output
from api.migrations.cli.results import Attempts, Backups, SchemaReport, StatusReport, retries_as_one
from api.migrations.core.schema import SchemaState
from api.migrations.core.status import Blocker, Holder, Member, Statement, Tracker
from api.migrations.databases.backups.backup import Backup, Made
from api.migrations.databases.backups.postgres import PostgresBackup
from api.migrations.databases.backups.sqlite import SqliteBackup
from api.migrations.errors import Cancelled, ConfigurationError, WaitTimeout

STARTED = datetime(2026, 3, 1, 12, 30, 15, tzinfo=UTC)
ATTEMPT: dict[str, Any] = {
    "id": 7,
    "revision": "b",
    "description": "b, Add b",
    "direction": "upgrade",
    "outcome": "applied",
    "instance": "web-1",
    "release": "v7",
    "database_user": "owner",
    "started_at": STARTED,
    "finished_at": STARTED + timedelta(seconds=1.5),
    "error": None,
}


class Typed(io.StringIO):
    """A terminal on which the answer is already typed."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def report(**changes: Any) -> StatusReport:
    """Return a report of a database that is behind and whose lock is free."""
    free: dict[str, Any] = {"lock": {"key": "k", "holder": None}, "statement": None, "retry": None, "blocked_by": ()}
    free |= {"elected": None, "fleet": (), "grant": None, "invalid_indexes": (), "expected_heads": (), "revisions": ()}
    return StatusReport(**{"state": SchemaState.BEHIND, "pending": (), **free, **changes})


def test_a_result_lists_its_steps_before_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    """A result prints the steps that ran, then the message."""
    output.show(SchemaReport(steps=["a, Add a", "b, Add b"], message="the database is at head (b)"), as_json=False)
    assert capsys.readouterr() == ("  a, Add a\n  b, Add b\nthe database is at head (b)\n", "")


def test_the_status_shows_lock_and_sessions(capsys: pytest.CaptureFixture[str]) -> None:
    """The status shows the lock holder and the blocking sessions with their pids."""
    result = report(
        message="behind",
        pending=["c, Add c"],
        lock={"key": "0x01", "holder": Holder("web-1", 4242)},
        statement=Statement("CREATE INDEX CONCURRENTLY", "building index", 42.4, 7.0),
        blocked_by=(Blocker(77, "reports", "app", "idle in transaction", 12.0, "t", "ShareLock"),),
        fleet=(Member("web-2", "waiting", 4243),),
        grant="GRANT pg_read_all_stats TO app",
        countdown="blocked for 3 min, gives up in 22 min (MIGRATION_RUN_SECONDS=1500)",
    )
    output.show(result, as_json=False)
    text = capsys.readouterr().out
    assert "pending: c, Add c" in text
    assert (
        "lock 0x01: held by web-1 (pid 4242, state hidden): CREATE INDEX CONCURRENTLY, building index 42 % for 7 s"
        in text
    )
    assert "pid 77 (reports, user app, idle in transaction for 12 s) blocks ShareLock on t" in text
    assert "\n  blocked for 3 min, gives up in 22 min (MIGRATION_RUN_SECONDS=1500)\n" in text
    assert "session: waiting web-2 (pid 4243)" in text
    assert "GRANT pg_read_all_stats TO app" in text
    output.show(result, as_json=True)
    assert json.loads(capsys.readouterr().out)["lock"]["holder"]["pid"] == 4242


@pytest.mark.parametrize(
    ("holder", "grant", "words"),
    [
        (Holder("web-1", 7, state="active"), None, "held by web-1 (pid 7, active)"),
        (Holder("web-1", 7), "GRANT", "held by web-1 (pid 7, state hidden)"),
        (Holder("web-1", 7), None, "held by web-1 (pid 7)"),
        (Holder("unknown", 0), None, "held by unknown"),
    ],
)
def test_the_status_shows_what_is_known_of_the_lock_holder(
    capsys: pytest.CaptureFixture[str], holder: Holder, grant: str | None, words: str
) -> None:
    """The status shows what is known of the lock holder, and "hidden" only on databases that can hide a session."""
    elected = {"leader": "web-2", "hold": "key k"}
    output.show(report(lock={"key": "k", "holder": holder}, elected=elected, grant=grant), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [f"lock k: {words}", "elected: web-2 (until its hold ends; key k)"]


@pytest.mark.parametrize(
    ("kind", "words"), [(PostgresBackup, "with PGHOST"), (SqliteBackup, "beside the database's file")]
)
def test_a_backup_prints_its_restore_command(
    capsys: pytest.CaptureFixture[str], kind: type[Backup], words: str
) -> None:
    """A backup prints the command that restores it; that of a SQLite file needs no PGHOST."""
    made = Made("/b/x", 1, "ab", (), "cp -n /b/x /d/x.restored")
    output.show(SchemaReport(backups=Backups(made=[made], restores_into=kind.restores_into)), as_json=False)
    *_, how, restore = capsys.readouterr().out.splitlines()
    assert words in how
    assert ("PGHOST" in how) is (kind is PostgresBackup)
    assert restore == "  cp -n /b/x /d/x.restored"


def test_a_free_lock_is_called_free(capsys: pytest.CaptureFixture[str]) -> None:
    """The status calls a lock without a holder free."""
    output.show(report(lock={"key": "0x01", "holder": None}), as_json=False)
    assert "lock 0x01: free" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["2026-03-01 12:30:15Z", "1.500 s", "upgrade", "applied", "b, Add b", "web-1", "owner"]),
        ({"finished_at": None, "outcome": "running"}, [" - ", "running"]),
        ({"outcome": "failed", "error": "boom"}, ["failed", "boom"]),
        ({"database_user": "", "error": "boom"}, ["by web-1  boom"]),
    ],
)
def test_an_attempt_is_printed_on_one_line(
    capsys: pytest.CaptureFixture[str], changes: dict[str, object], words: list[str]
) -> None:
    """The history prints each attempt on one line: revision, instance, start, duration and outcome."""
    output.show(Attempts(history=[{**ATTEMPT, **changes}]), as_json=False)
    (line,) = capsys.readouterr().out.splitlines()
    assert [word for word in words if word not in line] == []


def test_the_retries_of_a_revision_are_printed_as_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The history prints consecutive retries of a revision on one line, with their number and whole duration."""
    minute = timedelta(minutes=1)
    retried = [
        {**ATTEMPT, "outcome": "retried", "started_at": STARTED - n * minute, "finished_at": STARTED - n * minute}
        for n in range(1, 5)
    ]
    rows = retries_as_one([ATTEMPT, *retried, {**retried[-1], "revision": "a"}])
    assert [row["attempts"] for row in rows] == [1, 4, 1]
    output.show(Attempts(history=rows), as_json=False)
    _, line, _ = capsys.readouterr().out.splitlines()
    assert "2026-03-01 12:26:15Z  180.000 s  upgrade   retried      4 times  b, Add b" in line


def test_an_empty_history_is_printed_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty history prints "no history yet", and an empty list in JSON."""
    for as_json in (False, True):
        output.show(Attempts(history=[]), as_json=as_json)
    told, document = capsys.readouterr().out.splitlines()
    assert (told, json.loads(document)) == ("no history yet", {"history": []})


def test_json_output_is_one_document_with_readable_values(capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON output is one document with times in ISO 8601 and states by name."""
    output.show(Attempts(history=[ATTEMPT]), as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["history"][0]["started_at"] == "2026-03-01T12:30:15+00:00"
    assert err == ""
    for since, moment in ((STARTED.timestamp(), "2026-03-01T12:30:15+00:00"), (None, None)):
        output.show(report(lock={"key": "k", "holder": Holder("web-1", 7, since)}), as_json=True)
        shown = json.loads(capsys.readouterr().out)
        assert (shown["state"], shown["lock"]["holder"]["since"]) == ("behind", moment)


def test_an_error_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """An error prints one line to standard error, which begins with its class."""
    output.complain(WaitTimeout("gave up"), as_json=False)
    assert capsys.readouterr() == ("", "WaitTimeout: gave up\n")


def test_an_error_in_json_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """With `--json` an error is a JSON document on standard output."""
    output.complain(WaitTimeout("gave up"), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"error": "WaitTimeout", "message": "gave up"}


def confirm(*, yes: bool = False) -> None:
    """Ask for the confirmation to undo revisions b and a."""
    output.confirm(("b", "a"), lambda revision: f"{revision}, Add {revision}", yes=yes)


@pytest.mark.parametrize("answer", ["y\n", "Y\n", " yes \n"])
def test_a_confirmed_downgrade_continues(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    """The answer "yes" continues, after the revisions to undo were printed in their order."""
    monkeypatch.setattr(sys, "stdin", Typed(answer))
    confirm()
    assert "2 revision(s)" in (shown := capsys.readouterr().err)
    assert shown.index("b, Add b") < shown.index("a, Add a")


@pytest.mark.parametrize("answer", ["\n", "n\n", "yep\n"])
def test_a_downgrade_without_yes_is_cancelled(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Any answer but "yes", also an empty one, cancels the downgrade."""
    monkeypatch.setattr(sys, "stdin", Typed(answer))
    with pytest.raises(Cancelled, match="nothing was changed"):
        confirm()


def test_a_downgrade_without_a_terminal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A downgrade without a terminal is refused, and the error names `--yes`."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(ConfigurationError, match="--yes"):
        confirm()


def test_a_downgrade_with_yes_does_not_ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A downgrade with `--yes` prints the revisions to undo and does not wait for an answer."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    confirm(yes=True)
    assert "a, Add a" in capsys.readouterr().err


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_prints_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    """The progress display prints nothing without a terminal."""
    with output.progress(Tracker(), quiet=quiet) as tick:
        tick()
    assert capsys.readouterr() == ("", "")
