"""The arguments, the verdict and the output of `./dev up`, without its processes."""

import fcntl
import io
import os
import socket
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from devtools import up
from devtools.account import Account
from devtools.board import PlainBoard, summary, table
from devtools.database import Database, UsageError, home_for, open_database, stop_orphan
from devtools.fleet import problems, way_out
from devtools.instance import MARK, Instance
from devtools.other_terminal import use_database_of_dev_up
from devtools.ports import is_free, listeners_from
from devtools.report import Report, Run, exited

READY = Report("ready", "ready", ready=True, over=True)


def instance(folder: Path, number: int, report: Report, log: str = "") -> Instance:
    """Return an instance that was seen as `report` and has written `log`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Instance(f"api-{number}", listener, folder)
    made.url = f"http://127.0.0.1:{8000 + number}"
    made.report = report
    (folder / f"{made.name}.log").write_text(log)
    return made


def closed(_account: Account, _path: Path) -> bool:
    """Return False, in place of `Account.reaches`."""
    return False


def test_a_fleet_with_at_most_one_migrator_has_no_problem(tmp_path: Path) -> None:
    """A ready fleet in which one instance or none migrated has no problem."""
    one = [instance(tmp_path, 1, READY, f"INFO {MARK}\n"), instance(tmp_path, 2, READY)]
    none = [instance(tmp_path, 3, READY), instance(tmp_path, 4, READY)]
    assert problems(one, 10) == problems(none, 10) == []


def test_two_migrators_are_a_problem(tmp_path: Path) -> None:
    """Two instances that both migrated are a problem that names both."""
    both = [instance(tmp_path, number, READY, f"INFO {MARK}\n") for number in (1, 2)]
    assert problems(both, 10) == ["2 instances ran the migrations instead of one: api-1, api-2"]


def test_a_retry_after_a_failed_run_is_no_problem(tmp_path: Path) -> None:
    """An instance whose run failed is not counted beside the one that repeated the run with success."""
    tried, succeeded = (instance(tmp_path, number, READY, f"INFO {MARK}\n") for number in (1, 2))
    tried.run, succeeded.run = Run(1, 0.1, succeeded=False), Run(7, 0.5)
    assert problems([tried, succeeded], 10) == []
    assert "api-2 (7 revisions in 0.5 s) migrated the database; api-1 waited and saw it finish." in summary(
        [tried, succeeded], 8001
    )


def test_a_failed_revision_is_told_once_with_the_line_to_correct(tmp_path: Path) -> None:
    """The error of a revision is shown once, also if the waiting instances report it, and names the line to correct."""
    error = "revision a1, Add x failed and was rolled back: UndefinedTableError, at 2026_a1_add_x.py:26"
    waiters = f"{error} (on instance api-2, while this instance waited)"
    fleet = [
        instance(tmp_path, number, Report("failed", "failed: …", over=True, error=words))
        for number, words in enumerate((waiters, error, waiters), 1)
    ]
    assert problems(fleet, 10) == [f"api-2 failed: {error}\n    the same error on api-1 and api-3"]
    assert way_out(fleet) == [
        "To fix: correct line 26 of 2026_a1_add_x.py and run ./dev up again; what is applied stays."
    ]
    assert "  The state of the migration: http://127.0.0.1:8001/health/migrations" in summary(fleet, 8001)


def test_an_error_that_says_the_way_out_gets_no_other(tmp_path: Path) -> None:
    """An error without a place in a revision, or with its own remedy, gets no further one."""
    errors = ("cannot connect", "revision a1 failed, at a1.py:2. To fix: add it")
    for error in errors:
        assert way_out([instance(tmp_path, 1, Report("failed", error=error))]) == []


def test_an_ended_instance_is_a_problem_with_its_last_log_lines(tmp_path: Path) -> None:
    """An ended instance is a problem with its exit code and the last eight lines of its log."""
    log = "".join(f'line {number}\n"GET /health/migrations" 503\n' for number in range(12))
    [problem] = problems([instance(tmp_path, 1, exited(3), log)], 10)
    assert problem.splitlines() == ["api-1 exited with code 3", *(f"    line {number}" for number in range(4, 12))]


def test_an_instance_that_is_still_waiting_is_a_problem(tmp_path: Path) -> None:
    """An instance that still waits at the end of the budget is a problem with its state and the seconds."""
    waiting = instance(tmp_path, 1, Report("waiting", "waiting for api-2"))
    assert problems([waiting], 12.4) == ["api-1 not ready after 12 s: waiting for api-2"]


def test_the_summary_names_the_migrator(tmp_path: Path) -> None:
    """The summary names the instance that migrated, its revisions and seconds, the waiters and the addresses."""
    migrator = instance(tmp_path, 2, READY, f"INFO {MARK}\n")
    migrator.run = Run(6, 1.25)
    lines = summary([instance(tmp_path, 1, READY), migrator, instance(tmp_path, 3, READY)], 8001)
    assert "api-2 (6 revisions in 1.2 s) migrated the database; api-1 and api-3 waited and saw it finish." in lines
    assert "  api-1  http://127.0.0.1:8001/docs" in lines


def test_the_summary_at_head_says_that_nothing_was_migrated(tmp_path: Path) -> None:
    """The summary of a schema that was at head says that no instance migrated."""
    assert "The schema was already at head: no instance migrated." in summary([instance(tmp_path, 1, READY)], 8001)


def test_the_summary_does_not_credit_a_failed_migrator(tmp_path: Path) -> None:
    """The summary does not name a migrator that failed."""
    failed = instance(tmp_path, 1, exited(3), f"INFO {MARK}\n")
    assert summary([failed], 8001) == ["", "No instance became ready."]
    assert not any(failed.name in line for line in summary([failed, instance(tmp_path, 2, READY)], 8001))


def test_the_summary_names_the_process_with_the_usual_port(tmp_path: Path) -> None:
    """If another process listens on the first port, the summary names that process and the ports of the instances."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        moved = instance(tmp_path, 1, READY)
        moved.url = f"http://127.0.0.1:{port + 1}"
        mine = f"{psutil.Process().name()} (pid {os.getpid()})"
        assert summary([moved], port)[-1] == f"  In use: {port} by {mine}. The API listens on {port + 1}."


def test_plain_output_has_a_line_for_each_change(tmp_path: Path) -> None:
    """Plain output has one line for each change of a state, and prints square brackets as they are."""
    out = io.StringIO()
    board = PlainBoard(Console(file=out))
    watched = instance(tmp_path, 1, Report("waiting", "waiting for [api-2]"))
    board.show([watched])
    board.show([watched])
    watched.report = READY
    board.show([watched])
    assert [line.partition(" s  ")[2] for line in out.getvalue().splitlines()] == [
        "api-1  waiting for [api-2]",
        "api-1  ready",
    ]


def test_the_table_has_a_row_for_each_instance(tmp_path: Path) -> None:
    """The table has one line with name, address and state for each instance, also if the state is long."""
    out = io.StringIO()
    failed = Report("failed", "failed: revision 097ced08409f, " + 9 * "long ", over=True)
    fleet = [instance(tmp_path, 1, exited(-9)), instance(tmp_path, 2, READY), instance(tmp_path, 3, failed)]
    Console(file=out, width=80).print(table(fleet, 80))
    assert len(out.getvalue().splitlines()) == 4 + len(fleet)
    assert "failed: revision 097ced08409f" in out.getvalue()
    assert "api-1" in out.getvalue()
    assert "ended by SIGKILL" in out.getvalue()
    assert "http://127.0.0.1:8002" in out.getvalue()


def test_a_second_up_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    """A second `./dev up` in the same folder is refused while the first one runs."""
    with up.alone(tmp_path), pytest.raises(UsageError, match="another"), up.alone(tmp_path):
        pass
    with up.alone(tmp_path):
        assert (tmp_path / "up.lock").exists()


@pytest.mark.parametrize(("given", "seconds"), [(None, 330.0), ("", 330.0), ("600", 630.0), ("soon", 330.0)])
def test_the_budget_follows_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, seconds: float
) -> None:
    """`./dev up` waits 30 s longer than MIGRATION_WAIT_SECONDS, and ignores a malformed value."""
    monkeypatch.chdir(tmp_path)
    if given is not None:
        monkeypatch.setenv("MIGRATION_WAIT_SECONDS", given)
    assert up.wait_budget_seconds() == seconds


@pytest.mark.parametrize(("given", "added"), [(None, {"MIGRATION_ON_FAILURE": "hold"}), ("exit", {}), ("hold", {})])
def test_a_failed_instance_stays_up_unless_the_setting_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, added: dict[str, str]
) -> None:
    """`./dev up` keeps a failed instance up and shows the whole error on its page, unless a setting says otherwise."""
    monkeypatch.chdir(tmp_path)
    if given:
        (tmp_path / ".env").write_text(f"MIGRATION_ON_FAILURE={given}\n")
    assert up.usual_settings() == {**added, "MIGRATION_SHOW_ERRORS": "true"}


def test_fresh_never_empties_a_given_database(tmp_path: Path) -> None:
    """`--fresh` is refused with DATABASE_URL, and the URL's host is not shown."""
    given = Database("postgresql://db.example/production", "from DATABASE_URL")
    with pytest.raises(UsageError, match=r"from DATABASE_URL. To fix: unset") as refused:
        open_database(tmp_path, given, fresh=True).__enter__()
    assert "example" not in str(refused.value)
    with open_database(tmp_path, given, fresh=False) as database:
        assert database is given


@pytest.mark.parametrize(
    ("variable", "line", "description"),
    [
        ("sqlite:////one", "DATABASE_URL=sqlite:////two", "from DATABASE_URL"),
        ("", "DATABASE_URL=sqlite:////two", "from DATABASE_URL in .env"),
        ("", "DATABASE_URL=", None),
    ],
)
def test_a_url_in_the_environment_or_in_the_env_file_names_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, line: str, description: str | None
) -> None:
    """`./dev up` uses DATABASE_URL of the environment, else of `.env`; an empty one means the embedded database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", variable)
    (tmp_path / ".env").write_text(line)
    database = up.given_database()
    assert (database and database.description) == description
    assert database is None or database.url == (variable or "sqlite:////two")


@pytest.mark.parametrize(
    ("is_running", "own", "used"), [(True, "", True), (False, "", False), (True, "DATABASE_URL=sqlite:////own", False)]
)
def test_another_terminal_uses_the_database_of_a_running_dev_up(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_running: bool,
    own: str,
    used: bool,
) -> None:
    """The URL of `./dev up` is used while it locks its file and no other URL is set; a file that it left is not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "")
    note = tmp_path / "database-url"
    note.write_text("sqlite:////embedded")
    (tmp_path / ".env").write_text(own)
    with note.open() as held:
        if is_running:
            fcntl.flock(held, fcntl.LOCK_EX)
        use_database_of_dev_up(note)
    assert (os.environ["DATABASE_URL"] == "sqlite:////embedded") is used
    assert capsys.readouterr().err.count("DATABASE_URL is not set: using the database of ./dev up\n") == used


def test_data_stay_in_the_project_if_the_server_can_reach_them(tmp_path: Path) -> None:
    """The server's data folder is in the project if the server's account can reach it."""
    assert home_for(tmp_path / "data" / "postgres", Account()) == tmp_path / "data" / "postgres"


def test_data_go_elsewhere_if_the_server_cannot_reach_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each project has its own data folder elsewhere if the server's account cannot reach the project."""
    monkeypatch.setattr(Account, "reaches", closed)
    one, again, other = (home_for(tmp_path / name / "postgres", Account()) for name in ("a", "a", "b"))
    assert one == again
    assert one != other
    assert not one.is_relative_to(tmp_path)


def test_a_stale_pid_file_is_removed(tmp_path: Path) -> None:
    """A postmaster.pid with the pid of another process is removed."""
    note = tmp_path / "postmaster.pid"
    note.write_text(f"{os.getpid()}\n")
    stop_orphan(tmp_path)
    assert not note.exists()


def test_ports_in_use_are_skipped() -> None:
    """The next free port is used and stays reserved."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with next(listeners_from(port)) as ours:
            assert ours.getsockname()[1] > port
            assert not is_free(ours.getsockname()[1])
