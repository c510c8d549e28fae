"""The arguments of `migrate.sh`, the wrong usage that it refuses with exit code 2, and the exit codes in its help."""

import re
from pathlib import Path

import pytest

from api.migrations.cli import commands
from api.migrations.cli.each_scope import Command
from api.migrations.cli.main import EXIT_CODES, _parser, _settings, main
from api.migrations.errors import MigrationError

SIGNALS = {130, 143}


def classes(base: type[MigrationError] = MigrationError) -> set[type[MigrationError]]:
    """Return every error class of the package."""
    return {base}.union(*(classes(one) for one in base.__subclasses__()))


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ("upgrade", commands.upgrade),
        ("upgrade --backup --to there", commands.upgrade),
        ("backup --to there", commands.backup),
        ("downgrade base", commands.downgrade),
        ("current", commands.current),
        ("history", commands.history),
        ("status", commands.status),
        ("check", commands.check),
        ("wait", commands.wait),
        ("stamp head", commands.stamp),
        ("repair --rerun", commands.repair),
        ("repair --stamp", commands.repair),
        ("revision text --empty", commands.revision),
        ("adopt --write", commands.adopt),
        ("lint", commands.lint),
        ("lint ab12:head 3f.py --format sarif --squawk", commands.lint),
    ],
)
def test_every_command_is_parsed(argv: str, command: Command) -> None:
    """Every command is parsed, with and without `--json`."""
    arguments = _parser().parse_args(argv.split())
    assert arguments.command is command
    assert not arguments.json
    assert _parser().parse_args([*argv.split(), "--json"]).json


@pytest.mark.parametrize(
    ("argv", "revision"),
    [("downgrade -1", "-1"), ("downgrade -12 --yes", "-12"), ("downgrade base", "base"), ("upgrade", "head"),
     ("upgrade ab12", "ab12"), ("upgrade +1", "+1")],
)  # fmt: skip
def test_a_revision_that_begins_with_a_minus_is_not_an_option(argv: str, revision: str) -> None:
    """`downgrade -1` takes -1 as the revision."""
    assert _parser().parse_args(argv.split()).revision == revision


@pytest.mark.parametrize(
    "argv",
    [
        "",
        "nonsense",
        "downgrade",
        "stamp",
        "repair",
        "repair --rerun --stamp",
        "upgrade --timeout",
        "upgrade --timeout 0",
        "upgrade --timeout -5",
        "upgrade --timeout nan",
        "upgrade --timeout soon",
        "wait --time 5",
        "check --timeout 5",
        "history --limit many",
        "upgrade head base",
        "lint --format xml",
        "--json",
    ],
)
def test_wrong_usage_exits_with_code_2(argv: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage exits with code 2 before anything is read or connected, and standard error has the reason."""
    with pytest.raises(SystemExit) as ended:
        main(argv.split())
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: migrate.sh" in err


@pytest.mark.parametrize("word", ["--help", "help"])
def test_the_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str], word: str) -> None:
    """`migrate.sh --help` lists the exit codes."""
    with pytest.raises(SystemExit) as ended:
        main([word])
    assert ended.value.code == 0
    assert EXIT_CODES.strip() in capsys.readouterr().out


def test_help_of_a_command_is_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`help wait` prints the options of `wait`."""
    with pytest.raises(SystemExit) as ended:
        main(["help", "wait"])
    assert ended.value.code == 0
    assert "--timeout SECONDS" in capsys.readouterr().out


def test_the_help_explains_exactly_the_exit_codes_of_the_errors() -> None:
    """The help explains every exit code of the package's errors, and no other."""
    explained = {int(code) for code in re.findall(r"\b(\d+)(?=  |, \d)", EXIT_CODES)}
    assert explained - {0} - SIGNALS == {error.exit_code for error in classes()}


@pytest.mark.parametrize(("wait", "run"), [(10, 10), (300, 300), (3000, 300)])
def test_a_timeout_replaces_the_wait_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: float, run: float
) -> None:
    """`--timeout` replaces the wait budget: a shorter one shortens the run budget too, a longer one leaves it."""
    monkeypatch.chdir(tmp_path)
    settings = _settings(_parser().parse_args(["upgrade", "--timeout", str(wait)]))
    assert (settings.wait_seconds, settings.run_seconds) == (wait, run)


def test_a_timeout_may_be_shorter_than_an_elector_s_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--timeout` may be shorter than the time for which a dead leader's hold lasts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIGRATION_STRATEGY", "redis")
    monkeypatch.setenv("MIGRATION_REDIS_URL", "redis://127.0.0.1:1")
    assert _settings(_parser().parse_args(["wait", "--timeout", "5"])).wait_seconds == 5


def test_a_command_without_a_timeout_uses_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command without `--timeout` waits as long as the settings say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIGRATION_WAIT_SECONDS", "400")
    assert _settings(_parser().parse_args(["check"])).wait_seconds == 400


@pytest.mark.parametrize("limit", ["0", "-1", "many", "10001"])
def test_a_history_limit_out_of_bounds_is_refused(limit: str) -> None:
    """`history --limit` refuses everything but a number from 1 to 10,000."""
    with pytest.raises(SystemExit, match="2"):
        _parser().parse_args(["history", "--limit", limit])


@pytest.mark.parametrize("seconds", ["soon", "0", "nan"])
def test_an_invalid_timeout_is_explained(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--timeout` with another word than a number of seconds explains what it takes."""
    with pytest.raises(SystemExit, match="2"):
        _parser().parse_args(["wait", "--timeout", seconds])
    assert "--timeout: must be a number of seconds, more than 0" in capsys.readouterr().err
