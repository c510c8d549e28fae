"""`./dev` explains its commands and arguments, and names the closest one for a mistake, before it installs anything."""

import subprocess

import pytest

from devtools.arguments import parse
from devtools.environment import PROJECT


def dev(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run `./dev` with `words`."""
    return subprocess.run([PROJECT / "dev", *words], capture_output=True, text=True)


@pytest.mark.parametrize("scale", ["0", "-1", "33", "two", "", "3.5", "³"])
def test_a_scale_out_of_bounds_is_refused(scale: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--scale` refuses everything but a number from 1 to 32, and the message has the bounds and the value."""
    with pytest.raises(SystemExit) as stopped:
        parse(["--scale", scale])
    assert stopped.value.code == 2
    assert f"a number from 1 to 32, not {scale!r}" in capsys.readouterr().err


def test_three_instances_are_the_default() -> None:
    """Without arguments `./dev up` starts three instances, keeps the data and serves until it is stopped."""
    assert vars(parse([])) == {"scale": 3, "fresh": False, "check": False}


@pytest.mark.parametrize(
    ("word", "advice"), [("--chek", "--chek. Did you mean --check?"), ("--quux", "unknown argument: --quux\n")]
)
def test_an_unknown_argument_is_refused_with_the_closest_one(
    capsys: pytest.CaptureFixture[str], word: str, advice: str
) -> None:
    """An unknown argument of `./dev up` is refused, with the closest one if one is close."""
    with pytest.raises(SystemExit) as stopped:
        parse([word])
    assert stopped.value.code == 2
    assert advice in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("chek", "dev: unknown command: chek. Did you mean ./dev check? ./dev shows all commands.\n"),
        ("quux", "dev: unknown command: quux. ./dev shows all commands.\n"),
    ],
)
def test_an_unknown_command_is_refused_with_the_closest_one(word: str, line: str) -> None:
    """`./dev` with an unknown command exits with 2 and one line, which names the closest command if one is close."""
    done = dev(word)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


@pytest.mark.parametrize("words", [(), ("--help",), ("help",)])
def test_without_a_command_all_commands_are_explained(words: tuple[str, ...]) -> None:
    """`./dev`, `./dev --help` and `./dev help` explain each command in a line."""
    done = dev(*words)
    assert done.returncode == 0
    for name in "up test revision check fmt lock wheel chaos rollout bench python help".split():
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize(("words", "said"), [(("up", "--help"), "--fresh"), (("check", "-h"), "check format, lint")])
def test_help_about_a_command_does_not_run_it(words: tuple[str, ...], said: str) -> None:
    """`./dev COMMAND --help` explains the command and does nothing else."""
    done = dev(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout
