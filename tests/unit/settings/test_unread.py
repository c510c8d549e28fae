"""Variables and lines that resemble a setting but are ignored are reported without their values."""

import logging
from pathlib import Path

import pytest

from api.migrations.settings.unread import unread_settings, warn_of_unread_settings
from tests.support.variables import variables

VALUE = "geh3im"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's own .env."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MIGRATION_WIAT_SECONDS", "MIGRATION_WAIT_SECONDS"),
        ("migration_wait_second", "MIGRATION_WAIT_SECONDS"),
        ("MIGRATION_LOCK_TIMEOUT", "MIGRATION_LOCK_TIMEOUT_SECONDS"),
        ("MIGRATION_MIGRATION_DATABASE_URL", "MIGRATION_DATABASE_URL"),
        ("MIGRATION_DATABSE_URL", "MIGRATION_DATABASE_URL"),
        ("MIGRATIONS_STRATEGY", "MIGRATION_STRATEGY"),
    ],
)
def test_a_misspelt_variable_has_a_suggestion(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    """A misspelt variable is reported with the setting that it resembles, whatever the case of its letters."""
    monkeypatch.setenv(name, VALUE)
    assert unread_settings() == [f"{name} is not a setting of the migrations and is ignored; did you mean {meant}?"]


def test_an_unknown_variable_is_reported_without_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown variable with the prefix is reported without a suggestion, and one without the prefix is not."""
    monkeypatch.setenv("MIGRATION_ZOOKEEPER", VALUE)
    monkeypatch.setenv("MIGRATIONS_ZOOKEEPER", VALUE)
    monkeypatch.setenv("MIGRATION_QUORUM", VALUE)
    reported = [f"{name} is not a setting of the migrations and is ignored" for name in ("QUORUM", "ZOOKEEPER")]
    assert sorted(unread_settings()) == [f"MIGRATION_{line}" for line in reported]


def test_settings_and_service_links_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings in either case, and the variables of a Kubernetes Service named `migration-db`, are not reported."""
    for name in variables():
        monkeypatch.setenv(name, VALUE)
        monkeypatch.setenv(name.lower(), VALUE)
    for ending in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_SQL", "PORT", "PORT_5432_TCP", "PORT_5432_TCP_ADDR"):
        monkeypatch.setenv(f"MIGRATION_DB_{ending}", VALUE)
    assert unread_settings() == []


def test_variables_and_lines_of_the_file_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unknown variables and broken lines of the file are logged with its path."""
    (tmp_path / ".env").write_text(f"MIGRATION_POLL_SECOND={VALUE}\nOTHER=1\nMIGRATION_RELEASE {VALUE}\n")
    warn_of_unread_settings()
    assert {(record.levelno, vars(record)["event"]) for record in caplog.records} == {
        (logging.WARNING, "unread_setting")
    }
    file, name = tmp_path / ".env", "MIGRATION_POLL_SECOND"
    assert [record.getMessage() for record in caplog.records] == [
        f"{name} in {file} is not a setting of the migrations and is ignored; did you mean {name}S?",
        f"line 3 of {file} is not NAME=value and is ignored",
    ]


def test_an_unreadable_file_hides_no_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is unreadable: the unknown variable of the environment is still reported."""
    (tmp_path / ".env").write_bytes("A=1".encode("utf-16"))
    monkeypatch.setenv("MIGRATION_WIAT_SECONDS", VALUE)
    assert len(unread_settings()) == 1
