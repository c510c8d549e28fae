"""A backup never overwrites or removes a file that was in its folder before, even if the backup fails."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.migrations.databases.backups.backup import CHECKSUM, PARTIAL, Archive, Backup
from api.migrations.errors import BackupFailed
from api.migrations.execution.history_table import History, RunAuthor

NOON = datetime(2026, 3, 1, 12, 0, 0, 0, UTC)


async def copied(path: Path) -> tuple[int, str]:
    """Write an empty copy into the file that was created for it."""
    return 0, "0" * 64


def backed_up(folder: Path) -> Path:
    """Make a backup at noon and return its file."""
    backup = Backup(Archive(folder, 5), 60, History("history", None), RunAuthor("one", None))
    made = asyncio.run(backup._keep("ledger", NOON, frozenset({"r1"}), copied, str))
    return Path(made.path)


def test_a_backup_is_two_files(tmp_path: Path) -> None:
    """A finished backup consists of the copy and its checksum file, and leaves no partial file."""
    path = backed_up(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name, path.name + CHECKSUM]
    assert path.with_name(path.name + CHECKSUM).read_text() == f"{'0' * 64}  {path.name}\n"


@pytest.mark.parametrize("ending", ["", CHECKSUM, PARTIAL])
def test_a_backup_fails_if_a_file_has_its_name(tmp_path: Path, ending: str) -> None:
    """A file has the name of the backup, its checksum or its partial file: the backup fails and keeps that file."""
    path = Archive(tmp_path, 5).path("ledger", frozenset({"r1"}), NOON)
    other = path.with_name(path.name + ending)
    other.write_text("keep me")
    with pytest.raises(BackupFailed, match="File exists"):
        backed_up(tmp_path)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [(other.name, "keep me")]
