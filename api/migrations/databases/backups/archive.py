"""The folder of backups: what they are called, and which of them go.

`<database>@<revision>@<UTC time>.dump`, or `.sqlite` where the file is the database itself, with what a shell or a file
system minds as %XX, so that no database's files can be taken for another's.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)

CHECKSUM, PARTIAL = ".sha256", ".partial"

_TIME = r"\d{8}T\d{6}\.\d{3}Z"
_UNUSUAL = re.compile(r"[^\w.-]")
_LONGEST_REVISION = 64


@dataclass(frozen=True)
class Archive:
    """A folder of which the newest `keep` backups of a database are kept."""

    folder: Path
    keep: int
    ending: str = ".dump"

    def path(self, database: str, revisions: frozenset[str], at: datetime) -> Path:
        """Where the backup goes that is taken then."""
        revision = "+".join(map(_plain, sorted(revisions)))[:_LONGEST_REVISION] or "base"
        utc = at.astimezone(UTC)
        name = f"{_plain(database)}@{revision}@{utc:%Y%m%dT%H%M%S}.{utc.microsecond // 1000:03}Z{self.ending}"
        return self.folder.absolute() / name

    def prune(self, database: str, made: Sequence[Path], abandoned_seconds: float) -> None:
        """Remove what is too much, but nothing that this run has `made`, and nothing that is not a backup of ours.

        A backup of ours is a regular file with the name of one, and beside it the checksum file that names it. Also
        removed is what processes that died left unfinished, if it was last written longer than `abandoned_seconds` ago.
        """
        before = time.time() - abandoned_seconds
        try:
            newest = sorted(filter(_has_checksum, self._named(database, "")), key=_taken_at, reverse=True)
            too_much = [path for path in newest[self.keep :] if path not in made]
            abandoned = [path for path in self._named(database, PARTIAL) if path.stat().st_mtime < before]
            for path in too_much + abandoned:
                path.unlink()
                path.with_name(path.name + CHECKSUM).unlink(missing_ok=True)
                log.info("Removed the old backup %s", path, extra={"event": "backup_removed"})
        except OSError as error:
            # a backup too many is no reason not to migrate
            log.warning("Could not remove old backups: %s", error.strerror, extra={"event": "backup_kept"})

    def _named(self, database: str, ending: str) -> Iterator[Path]:
        ours = re.compile(rf"{re.escape(_plain(database))}@[^@]+@{_TIME}{re.escape(self.ending + ending)}")
        return (path for path in self.folder.absolute().iterdir() if ours.fullmatch(path.name) and _regular(path))


def _plain(text: str) -> str:
    return _UNUSUAL.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)


def _regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _has_checksum(path: Path) -> bool:
    beside = path.with_name(path.name + CHECKSUM)
    return _regular(beside) and beside.read_text(errors="replace")[64:] == f"  {path.name}\n"


def _taken_at(path: Path) -> str:
    return path.name.rsplit("@", 1)[1]
