"""The file `.env` is read with or without a byte order mark, and an error about it names the file on one line."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from api.migrations.errors import ConfigurationError
from api.migrations.settings import MigrationSettings, env_file
from api.settings import Settings

SECRET = "geh3im"
TEXT = f"DATABASE_URL=postgresql://u:{SECRET}@h/d\nMIGRATION_INSTANCE=b\u00fcro\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the file, which does not exist yet."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".env"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("utf-16"), "is UTF-16"),
        (TEXT.encode("utf-16-le"), "is UTF-16"),
        (TEXT.encode("latin-1"), "is not UTF-8: see line 2"),
    ],
    ids=["UTF-16", "UTF-16 without a mark", "Latin-1"],
)
def test_a_file_in_another_encoding_is_refused(file: Path, content: bytes, message: str) -> None:
    """A file that is not UTF-8 is refused with its path and encoding, and without its values."""
    file.write_bytes(content)
    for load in (MigrationSettings.load, Settings.load):
        with pytest.raises(ConfigurationError, match=f"^{file} {message}.*To fix: save it as UTF-8$") as refused:
            load()
        assert SECRET not in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "is a folder"),
        (lambda file: file.symlink_to("nowhere"), "is a symbolic link to a file that does not exist"),
        (lambda file: file.symlink_to("/proc/self/mem"), "cannot be read: Input/output error"),
    ],
    ids=["a folder, as Docker makes it", "a link to a secret that was not mounted", "a first byte that cannot be read"],
)
def test_an_unreadable_file_is_refused(file: Path, make: Callable[[Path], None], message: str) -> None:
    """A folder, a dangling link or an unreadable file named `.env` is refused with its path and a remedy."""
    make(file)
    with pytest.raises(ConfigurationError, match=f"^{file} {message}.*To fix: "):
        MigrationSettings.load()


def test_a_virtual_environment_named_env_is_ignored(file: Path) -> None:
    """A virtual environment in the folder `.env` is ignored."""
    file.mkdir()
    (file / "pyvenv.cfg").touch()
    assert MigrationSettings.load().poll_seconds == 1
    assert env_file.read().names == ()


def test_a_byte_order_mark_does_not_hide_the_first_variable(file: Path) -> None:
    """The first variable of a file with a byte order mark is read."""
    file.write_bytes(b"\xef\xbb\xbfMIGRATION_POLL_SECONDS=7\nDATABASE_URL=postgresql://h/d\n")
    assert MigrationSettings.load().poll_seconds == 7
    assert Settings.load().database_url.get_secret_value() == "postgresql://h/d"


def test_lines_without_an_assignment_are_reported_by_number(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Lines without an assignment are reported by their numbers, and python-dotenv logs nothing."""
    file.write_text(f"A=1\nMIGRATION_POLL_SECONDS 5\n\n\nX='{SECRET}\nMIGRATION_POLL_SECONDS=7\n")
    with caplog.at_level(logging.DEBUG):
        assert MigrationSettings.load().poll_seconds == 7
        found = env_file.read()
    assert (found.names, found.broken) == (("A", "MIGRATION_POLL_SECONDS"), (2, 5))
    assert caplog.records == []
    assert SECRET not in repr(found)


def test_log_settings_come_from_the_environment_if_the_file_is_unreadable(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is unreadable: log format and instance still come from the environment."""
    file.write_bytes(TEXT.encode("utf-16"))
    monkeypatch.setenv("MIGRATION_LOG_FORMAT", "json")
    monkeypatch.setenv("MIGRATION_INSTANCE", "web-1")
    log_settings = MigrationSettings.load_partial("log_format", "instance")
    assert (log_settings.log_format, log_settings.instance) == ("json", "web-1")
