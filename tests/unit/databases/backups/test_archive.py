"""The archive names backups, and removes old ones of its own database and nothing else."""

import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from api.migrations.databases.backups.backup import CHECKSUM, PARTIAL, Archive

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, UTC)
HOUR = timedelta(hours=1)


def put(archive: Archive, database: str, hours: int, revision: str = "r1") -> Path:
    """Create an empty file that looks like a backup made `hours` after noon, with its checksum."""
    path = archive.path(database, frozenset({revision}), NOON + hours * HOUR)
    path.touch()
    path.with_name(path.name + CHECKSUM).write_text(f"{'0' * 64}  {path.name}\n")
    return path


def left(archive: Archive) -> list[str]:
    """Return the names of the files in the folder, without the checksums."""
    return sorted(path.name for path in archive.folder.iterdir() if path.suffix != CHECKSUM)


@pytest.mark.parametrize(
    ("database", "revisions", "name"),
    [
        ("ledger", {"ab12"}, "ledger@ab12@20260301T120000.123Z.dump"),
        ("ledger", set(), "ledger@base@20260301T120000.123Z.dump"),
        ("ledger", {"b", "a"}, "ledger@a+b@20260301T120000.123Z.dump"),
        ("a/../b@c d", {"r$1"}, "a%2F..%2Fb%40c%20d@r%241@20260301T120000.123Z.dump"),
        ("größe", {"x" * 100}, f"größe@{'x' * 64}@20260301T120000.123Z.dump"),
    ],
)
def test_a_backup_is_named_by_database_revision_and_time(
    tmp_path: Path, database: str, revisions: set[str], name: str
) -> None:
    """A backup's name has the database, its revisions and the time in UTC, all escaped so that it is never a path."""
    there = NOON.astimezone(timezone(-5 * HOUR))
    assert Archive(tmp_path, 5).path(database, frozenset(revisions), there) == tmp_path / name


def test_the_archive_keeps_the_newest_backups(tmp_path: Path) -> None:
    """The archive keeps the newest backups by the time in their names, and removes the checksums of the others too."""
    archive = Archive(tmp_path, 2)
    paths = [put(archive, "ledger", hours) for hours in (3, 1, 4, 2)]
    os.utime(paths[1], (9e9, 9e9))
    archive.prune("ledger", [], 3600)
    assert left(archive) == sorted([paths[0].name, paths[2].name])
    assert len(list(tmp_path.glob(f"*{CHECKSUM}"))) == 2


def test_a_run_s_own_backups_are_never_removed(tmp_path: Path) -> None:
    """The archive never removes a backup that the same run made, even if there are more than it should keep."""
    archive = Archive(tmp_path, 1)
    older, newest = [put(archive, "ledger", hours) for hours in (1, 2)], put(archive, "ledger", 3)
    archive.prune("ledger", older, 3600)
    assert left(archive) == sorted(path.name for path in [*older, newest])


def test_files_other_than_backups_of_the_database_are_kept(tmp_path: Path) -> None:
    """The archive keeps backups of databases with similar names, folders, and files with other names."""
    archive = Archive(tmp_path, 1)
    put(archive, "ledger", 1)
    kept = [put(archive, "ledger", 9)]
    kept += [put(archive, name, 1, "ledger") for name in ("ledger2", "my_ledger", "ledger@x", "Ledger", "l.dger")]
    for name in ("ledger.dump", "ledger@r1@before.dump", "ledger@r1@20260301T120000.123Z.dump.old", "notes.txt"):
        kept.append(tmp_path / name)
        kept[-1].touch()
    kept.append(archive.path("ledger", frozenset({"folder"}), NOON))
    kept[-1].mkdir()
    archive.prune("ledger", [], 3600)
    assert left(archive) == sorted(path.name for path in kept)


@pytest.mark.parametrize(
    "checksum", [None, "", f"{'0' * 64}  another.dump\n", "a link"], ids=["none", "empty", "another's", "a link"]
)
def test_a_file_without_its_own_checksum_is_kept(tmp_path: Path, checksum: str | None) -> None:
    """A file with a backup's name but no valid checksum is kept, and does not count as a backup."""
    archive = Archive(tmp_path, 1)
    other, kept = put(archive, "ledger", 1), [put(archive, "ledger", hours) for hours in (2, 3)][-1]
    beside = other.with_name(other.name + CHECKSUM)
    beside.unlink()
    if checksum == "a link":
        other.rename(tmp_path / "elsewhere")
        other.symlink_to(tmp_path / "elsewhere")
        beside.write_text(f"{'0' * 64}  {other.name}\n")
    elif checksum is not None:
        beside.write_text(checksum)
    archive.prune("ledger", [], 3600)
    assert left(archive) == sorted({other.name, kept.name, *(["elsewhere"] if checksum == "a link" else [])})


def test_only_old_unfinished_files_are_removed(tmp_path: Path) -> None:
    """The archive removes an unfinished file that is old, and keeps one that may still be written."""
    archive = Archive(tmp_path, 5)
    dead, alive = (tmp_path / (archive.path("ledger", frozenset({r}), NOON).name + PARTIAL) for r in ("dead", "alive"))
    dead.touch()
    alive.touch()
    os.utime(dead, (0, 0))
    archive.prune("ledger", [], 3600)
    assert left(archive) == [alive.name]
