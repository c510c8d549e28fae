"""The file `.env`: read with a byte order mark or without; an error about it is one line with its name."""

import logging
from pathlib import Path

import pytest

from api.migrations.errors import ConfigurationError
from api.migrations.settings import MigrationSettings, env_file
from api.settings import Settings

SECRET = "geh3im"
TEXT = f"DATABASE_URL=postgresql://u:{SECRET}@h/d\nMIGRATION_INSTANCE=b\u00fcro\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it would be."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".env"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TEXT.encode("utf-16"), "is UTF-16"),
        (TEXT.encode("utf-16-le"), "is UTF-16"),
        (TEXT.encode("latin-1"), "is not UTF-8: see line 2"),
    ],
    ids=["UTF-16", "UTF-16 without a mark", "Latin-1"],
)
def test_another_encoding_is_refused_by_name(file: Path, content: bytes, words: str) -> None:
    """By the settings of the migrations and of the service, without a value."""
    file.write_bytes(content)
    for load in (MigrationSettings.load, Settings.load):
        with pytest.raises(ConfigurationError, match=f"^{file} {words}.*To fix: save it as UTF-8$") as refused:
            load()
        assert SECRET not in str(refused.value)
        assert "\n" not in str(refused.value)


def make_folder(file: Path) -> None:
    """A folder of that name, as Docker makes it."""
    file.mkdir()


def make_dangling(file: Path) -> None:
    """A link to a secret that was not mounted."""
    file.symlink_to("nowhere")


def make_broken(file: Path) -> None:
    """A file that exists and whose first byte cannot be read."""
    file.symlink_to("/proc/self/mem")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_folder, "is a folder"),
        (make_dangling, "is a symbolic link to a file that does not exist"),
        (make_broken, "cannot be read: Input/output error"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(file: Path, make: object, words: str) -> None:
    """A file that is silently left out would mean a start with default settings."""
    assert callable(make)
    make(file)
    with pytest.raises(ConfigurationError, match=f"^{file} {words}.*To fix: "):
        MigrationSettings.load()


def test_a_virtual_environment_of_that_name_is_none_of_our_business(file: Path) -> None:
    """`python -m venv .env` is a habit of many."""
    file.mkdir()
    (file / "pyvenv.cfg").touch()
    assert MigrationSettings.load().poll_seconds == 1
    assert env_file.read().names == ()


def test_a_byte_order_mark_does_not_hide_the_first_variable(file: Path) -> None:
    """Windows editors write one."""
    file.write_bytes(b"\xef\xbb\xbfMIGRATION_POLL_SECONDS=7\nDATABASE_URL=postgresql://h/d\n")
    assert MigrationSettings.load().poll_seconds == 7
    assert Settings.load().database_url.get_secret_value() == "postgresql://h/d"


def test_lines_that_are_no_assignment_are_numbered(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where they begin, after empty lines as well; python-dotenv says nothing of its own."""
    file.write_text(f"A=1\nMIGRATION_POLL_SECONDS 5\n\n\nX='{SECRET}\nMIGRATION_POLL_SECONDS=7\n")
    with caplog.at_level(logging.DEBUG):
        assert MigrationSettings.load().poll_seconds == 7
        found = env_file.read()
    assert (found.names, found.broken) == (("A", "MIGRATION_POLL_SECONDS"), (2, 5))
    assert caplog.records == []
    assert SECRET not in repr(found)


def test_the_environment_counts_without_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error about the file is told in the shape, and by the instance, that the environment names."""
    file.write_bytes(TEXT.encode("utf-16"))
    monkeypatch.setenv("MIGRATION_LOG_FORMAT", "json")
    monkeypatch.setenv("MIGRATION_INSTANCE", "web-1")
    shape = MigrationSettings.load_partial("log_format", "instance")
    assert (shape.log_format, shape.instance) == ("json", "web-1")
