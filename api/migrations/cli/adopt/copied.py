"""A copied folder of the package, and the record of its version and files as they were copied."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

from ...errors import ConfigurationError

RECORD = "copied.json"
"""The file of the record, in the copied folder."""
OWN_TEXT = ".orig"
"""The suffix of a replaced file with changes of its own."""
_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.M)
_INSTALLED = {"site-packages", "dist-packages"}
_ORIGIN = re.compile(r'^name = "alembic-fleet"$', re.M)


@dataclass(frozen=True)
class Copy:
    """The version of a folder of the package, and the SHA-256 of each file; paths are relative to it, with slashes."""

    version: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Copy:
        """Read the folder. Raises `ConfigurationError` if it is not the folder of the package."""
        try:
            version = _VERSION.search((folder / "__init__.py").read_text(encoding="utf-8"))
            if version is not None and (folder / "lock_manager.py").is_file():
                return cls(version[1], {path: _digest(folder / path) for path in _paths(folder)})
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{folder} cannot be read: {type(error).__name__}. To fix: name the package's folder, such as "
                "api/migrations of a checkout or alembic_fleet of an unpacked wheel"
            ) from None
        raise ConfigurationError(
            f"{folder} is not a folder of this package with a version. To fix: name api/migrations of a checkout, or "
            "alembic_fleet of an unpacked wheel"
        )

    @classmethod
    def recorded(cls, folder: Path) -> Copy | None:
        """Read the record in the folder; None if there is none. Raises `ConfigurationError` if it is damaged."""
        file = folder / RECORD
        if not file.exists():
            return None
        try:
            content = json.loads(file.read_bytes())
            return cls(str(content["version"]), dict(content["files"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{file} cannot be read: {type(error).__name__}. To fix: restore it from version control, or delete it"
            ) from None

    def record(self, folder: Path) -> None:
        """Write the record into the folder, all of it or nothing. Raises `OSError` if it cannot be written."""
        new = staged(folder / RECORD)
        new.write_text(f"{json.dumps(asdict(self), indent=1, sort_keys=True)}\n", encoding="utf-8")
        new.replace(folder / RECORD)

    def differing(self, other: Copy) -> list[str]:
        """Return the paths that only one of both has, or whose text differs, in order."""
        return sorted({path for path, _ in self.files.items() ^ other.files.items()})


def staged(path: Path) -> Path:
    """Return the name under which the new text of `path` is written before it replaces the old one."""
    return path.with_name(f".{path.name}.new")


def copied_folder(root: Path) -> Path | None:
    """Return the folder of the running package if it is a copy in the project `root`; None if it is installed."""
    folder = Path(__file__).resolve().parents[2]
    if not folder.is_relative_to(root) or _INSTALLED & {*folder.parts}:
        return None
    project = root / "pyproject.toml"
    # the package's own project has no copy
    is_origin = project.is_file() and _ORIGIN.search(project.read_text(encoding="utf-8", errors="replace"))
    return None if is_origin else folder


def _paths(folder: Path) -> list[str]:
    paths = []
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        names = [name for name in files if not name.startswith(".") and not name.endswith((".pyc", OWN_TEXT))]
        paths += [(Path(here) / name).relative_to(folder).as_posix() for name in names]
    return sorted({*paths} - {RECORD})


def _digest(file: Path) -> str:
    # git may check out a text with other line ends
    return sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
