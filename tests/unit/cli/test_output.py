"""How `migrate.sh` talks: results on standard output, the rest on standard error, JSON where it was asked for."""

import io
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.migrations.cli import output
from api.migrations.cli.results import Attempts, Backups, SchemaReport, StatusReport
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
    """A keyboard with the answer already typed."""

    def isatty(self) -> bool:
        """It is a output."""
        return True


def report(**changes: Any) -> StatusReport:
    """A report of a database that is behind, and of a lock that is free."""
    free: dict[str, Any] = {"lock": {"key": "k", "holder": None}, "statement": None, "retry": None, "blocked_by": ()}
    free |= {"elected": None, "fleet": (), "grant": None, "invalid_indexes": (), "expected_heads": (), "revisions": ()}
    return StatusReport(**{"state": SchemaState.BEHIND, "pending": (), **free, **changes})


def test_a_result_is_its_steps_and_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    """What was done comes before where that leads."""
    output.show(SchemaReport(steps=["a, Add a", "b, Add b"], message="the database is at head (b)"), as_json=False)
    assert capsys.readouterr() == ("  a, Add a\n  b, Add b\nthe database is at head (b)\n", "")


def test_the_status_shows_lock_and_sessions(capsys: pytest.CaptureFixture[str]) -> None:
    """Who holds it, with the pid that a person may have to terminate."""
    result = report(
        message="behind",
        pending=["c, Add c"],
        lock={"key": "0x01", "holder": Holder("web-1", 4242)},
        statement=Statement("CREATE INDEX CONCURRENTLY", "building index", 42.4, 7.0),
        blocked_by=(Blocker(77, "reports", "app", "idle in transaction", 12.0, "t", "ShareLock"),),
        fleet=(Member("web-2", "waiting", 4243),),
        grant="GRANT pg_read_all_stats TO app",
    )
    output.show(result, as_json=False)
    text = capsys.readouterr().out
    assert "pending: c, Add c" in text
    assert (
        "lock 0x01: held by web-1 (pid 4242, state hidden): CREATE INDEX CONCURRENTLY, building index 42 % for 7 s"
        in text
    )
    assert "pid 77 (reports, user app, idle in transaction for 12 s) blocks ShareLock on t" in text
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
def test_the_holder_is_told_as_far_as_it_is_known(
    capsys: pytest.CaptureFixture[str], holder: Holder, grant: str | None, words: str
) -> None:
    """Nothing is called hidden where the database has no such thing."""
    elected = {"leader": "web-2", "hold": "key k"}
    output.show(report(lock={"key": "k", "holder": holder}, elected=elected, grant=grant), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [f"lock k: {words}", "elected: web-2 (until its hold ends; key k)"]


@pytest.mark.parametrize(
    ("kind", "words"), [(PostgresBackup, "with PGHOST"), (SqliteBackup, "beside the database's file")]
)
def test_a_backup_says_how_to_restore_it(capsys: pytest.CaptureFixture[str], kind: type[Backup], words: str) -> None:
    """A copied file needs no PGHOST."""
    made = Made("/b/x", 1, "ab", (), "cp -n /b/x /d/x.restored")
    output.show(SchemaReport(backups=Backups(made=[made], restores_into=kind.restores_into)), as_json=False)
    *_, how, restore = capsys.readouterr().out.splitlines()
    assert words in how
    assert ("PGHOST" in how) is (kind is PostgresBackup)
    assert restore == "  cp -n /b/x /d/x.restored"


def test_a_free_lock_is_called_free(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody has to be looked for."""
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
def test_an_attempt_is_one_line(
    capsys: pytest.CaptureFixture[str], changes: dict[str, object], words: list[str]
) -> None:
    """Which, by whom, when, how long, with what outcome."""
    output.show(Attempts(history=[{**ATTEMPT, **changes}]), as_json=False)
    (line,) = capsys.readouterr().out.splitlines()
    assert [word for word in words if word not in line] == []


def test_an_empty_history_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """To people; JSON has an empty list."""
    for as_json in (False, True):
        output.show(Attempts(history=[]), as_json=as_json)
    told, document = capsys.readouterr().out.splitlines()
    assert (told, json.loads(document)) == ("no history yet", {"history": []})


def test_json_is_one_document_with_readable_values(capsys: pytest.CaptureFixture[str]) -> None:
    """Moments as ISO 8601, states by their names."""
    output.show(Attempts(history=[ATTEMPT]), as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["history"][0]["started_at"] == "2026-03-01T12:30:15+00:00"
    assert err == ""
    for since, moment in ((STARTED.timestamp(), "2026-03-01T12:30:15+00:00"), (None, None)):
        output.show(report(lock={"key": "k", "holder": Holder("web-1", 7, since)}), as_json=True)
        shown = json.loads(capsys.readouterr().out)
        assert (shown["state"], shown["lock"]["holder"]["since"]) == ("behind", moment)


def test_a_complaint_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Its class first, so that a script can look for it."""
    output.complain(WaitTimeout("gave up"), as_json=False)
    assert capsys.readouterr() == ("", "WaitTimeout: gave up\n")


def test_a_complaint_in_json_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """A script reads one stream."""
    output.complain(WaitTimeout("gave up"), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"error": "WaitTimeout", "message": "gave up"}


def confirm(*, yes: bool = False) -> None:
    """Ask about undoing b and a."""
    output.confirm(("b", "a"), lambda revision: f"{revision}, Add {revision}", yes=yes)


@pytest.mark.parametrize("answer", ["y\n", "Y\n", " yes \n"])
def test_yes_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str) -> None:
    """After what will be undone has been shown."""
    monkeypatch.setattr(sys, "stdin", Typed(answer))
    confirm()
    assert "2 revision(s)" in (shown := capsys.readouterr().err)
    assert shown.index("b, Add b") < shown.index("a, Add a")


@pytest.mark.parametrize("answer", ["\n", "n\n", "yep\n"])
def test_anything_else_changes_nothing(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Enter alone is a no."""
    monkeypatch.setattr(sys, "stdin", Typed(answer))
    with pytest.raises(Cancelled, match="nothing was changed"):
        confirm()


def test_without_a_terminal_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline must say that it means it."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(ConfigurationError, match="--yes"):
        confirm()


def test_said_in_advance_it_does_not_ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows what will be undone all the same."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    confirm(yes=True)
    assert "a, Add a" in capsys.readouterr().err


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    """In a pipeline the log lines tell."""
    with output.progress(Tracker(), quiet=quiet) as tick:
        tick()
    assert capsys.readouterr() == ("", "")
