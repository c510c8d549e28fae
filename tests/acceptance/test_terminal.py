"""./migrate.sh on a terminal draws its progress, and asks before it undoes a revision."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import evidence
from tests.support.fleet import MARK, WAIT_SECONDS, environment, shell_code
from tests.support.pace import scaled
from tests.support.project import PLAIN, ROOT, head, make_history, revisions, slow

pytestmark = pytest.mark.acceptance

QUESTION = b"[y/N] "
Answer = Callable[["subprocess.Popen[bytes]", int], object]


def on_a_terminal(*arguments: str, url: str, ini: Path = PLAIN, answer: Answer | None = None) -> tuple[int, str]:
    """Run a command on a pseudo-terminal; when it asks, call `answer` with the process and its keyboard.

    Returns the exit code and everything that the command drew.
    """
    here, there = os.openpty()
    process = subprocess.Popen(
        ["./migrate.sh", *arguments],
        cwd=ROOT,
        env=environment(url, VIRTUAL_ENV=sys.prefix, MIGRATION_ALEMBIC_CONFIG=str(ini), TERM="xterm"),
        stdin=there,
        stdout=there,
        stderr=there,
        # a run in the background ignores SIGINT, and its processes would inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(there)
    seen = b""
    try:
        while chunk := _read(here):
            seen += chunk
            if answer is not None and QUESTION in seen:
                answer(process, here)
                answer = None
        process.wait(WAIT_SECONDS)
    finally:
        os.close(here)
        process.kill()
        process.wait()
    return shell_code(process), seen.decode()


def _read(terminal: int) -> bytes:
    drawn, _, _ = select.select([terminal], [], [], WAIT_SECONDS)
    assert drawn, f"nothing drawn for {WAIT_SECONDS:g} s"
    try:
        return os.read(terminal, 65536)
    except OSError:
        # on Linux this error means that the other end is closed
        return b""


def typing(text: str) -> Answer:
    """Return an answer that types `text`."""
    return lambda process, keyboard: os.write(keyboard, text.encode())


def test_an_upgrade_draws_a_progress_bar(ledger_url: str, tmp_path: Path) -> None:
    """`upgrade` on a terminal draws a bar with the revision that runs, and the result stays on the screen."""
    ini = make_history(tmp_path, slow("slow", scaled(1.5)))
    code, drawn = on_a_terminal("upgrade", url=ledger_url, ini=ini)
    assert code == 0, drawn
    assert "━" in drawn
    assert "0/1" in drawn
    assert "migrating slow" in drawn
    assert drawn.count(MARK) == 1
    assert drawn.rstrip().endswith("the database is at head (slow)")


@pytest.mark.parametrize("text", ["n\n", "\n", "nope\n", "\x04"], ids=["n", "nothing", "nope", "Ctrl-D"])
def test_a_downgrade_that_is_not_confirmed_changes_nothing(ledger_url: str, text: str) -> None:
    """`downgrade` shows its plan and asks; every answer but yes ends it with 1 and changes nothing."""
    before = evidence.history(ledger_url)
    code, drawn = on_a_terminal("downgrade", "-1", url=ledger_url, answer=typing(text))
    assert code == 1, drawn
    assert f"  {head()}, Drop request_digest" in drawn
    assert "Cancelled: nothing was changed" in drawn
    assert "Traceback" not in drawn
    assert evidence.versions(ledger_url) == [head()]
    assert evidence.history(ledger_url) == before


def test_a_downgrade_that_is_confirmed_runs(ledger_url: str) -> None:
    """`downgrade` asks once; after `y` it undoes the revision and exits with 0."""
    code, drawn = on_a_terminal("downgrade", "-1", url=ledger_url, answer=typing("y\n"))
    assert code == 0, drawn
    assert evidence.versions(ledger_url) == [revisions()[-2]]


def sending(number: signal.Signals) -> Answer:
    """Return an answer that sends a signal, repeatedly because Python misses one that comes just before it reads."""

    def answer(process: "subprocess.Popen[bytes]", keyboard: int) -> None:
        for _ in range(6):
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(WAIT_SECONDS / 6)
                return

    return answer


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_at_the_question_changes_nothing(ledger_url: str, number: signal.Signals, code: int) -> None:
    """SIGINT or SIGTERM at the question ends `downgrade` with 130 or 143, without a traceback, and changes nothing."""
    ended, drawn = on_a_terminal("downgrade", "-1", url=ledger_url, answer=sending(number))
    assert ended == code, drawn
    assert "Traceback" not in drawn
    assert evidence.versions(ledger_url) == [head()]
