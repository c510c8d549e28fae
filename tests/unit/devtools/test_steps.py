"""The steps that `./dev` shows while it installs."""

import io

import pytest

from devtools.steps import step


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        """Return True."""
        return True


LINES = (
    "Collecting mypy==2.4.1",
    "  Downloading mypy-2.4.1-cp311-cp311-manylinux_2_28_x86_64.whl (15.4 MB)",
    "  Downloading idna-3.20-py3-none-any.whl.metadata (9.9 kB)",
    "Downloading asyncmy (7.4MiB)",
    " Downloaded asyncmy",
    "  Downloading idna-3.20-py3-none-any.whl (70 kB)",
)


def test_a_step_in_a_pipe_has_lines_for_its_start_its_large_downloads_and_its_end() -> None:
    """In a pipe a step shows its start at once, downloads from 1 MB on, and megabytes and seconds at its end."""
    out = io.StringIO()
    with step("installing", out) as shown:
        assert out.getvalue() == "dev: installing\n"
        for line in LINES:
            shown.read(line)
    *begun, end = out.getvalue().splitlines()
    assert begun == ["dev: installing", "     mypy 15.4 MB", "     asyncmy 7.4 MB"]
    assert end.startswith("     23 MB in ")


def test_a_step_on_a_terminal_is_one_line() -> None:
    """On a terminal one line is rewritten, and stays with the duration."""
    out = Terminal()
    with step("installing", out) as shown:
        shown.read(LINES[1])
        shown.draw()
        assert "mypy 15.4 MB" in out.getvalue()
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().rpartition("\x1b[2K")[2].startswith("dev: installing: 15 MB in ")


def test_a_failed_step_has_no_duration() -> None:
    """A step that fails is not shown as done."""
    out = io.StringIO()
    with pytest.raises(ValueError, match="broken"), step("installing", out):
        raise ValueError("broken")
    assert out.getvalue() == "dev: installing\n"
