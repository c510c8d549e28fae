"""The text files of a project, without environments, dependencies and this package."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

PACKAGE = (__package__ or "").rpartition(".cli.")[0]
"""The name under which the project imports this package."""
IS_INSTALLED = PACKAGE == "alembic_fleet"
"""Whether it is the distribution, whose plugin Alembic loads, and not a copied folder."""
_OURS = Path(__file__).resolve().parents[2]
_SKIPPED = {"node_modules", "site-packages", "__pycache__", "build", "dist"}
_SHOWN = {".do"}
_LARGEST = 1_000_000
_OTHERS = re.compile(r"(^|/)((tests?|examples?|docs)/|test_[^/]*\.py$|[^/]*_test\.py$|conftest\.py$)")


def without_login(line: str) -> str:
    """Return `line` without the user and the password of a URL."""
    return re.sub(r"(://)[^\s/@]+@", r"\1…@", line)


class Project:
    """The files below `root`; paths are relative to it, with slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._texts: dict[str, str] = {}

    @cached_property
    def paths(self) -> list[str]:
        """The files that may be looked at, in order; symbolic links are not followed."""
        return sorted(self._walk())

    def named(self, pattern: str) -> list[str]:
        """Return the paths whose file name matches the regular expression `pattern`."""
        return [path for path in self.paths if re.fullmatch(pattern, path.rpartition("/")[2], re.I)]

    @property
    def sources(self) -> list[str]:
        """The Python files that are no tests, examples or documents."""
        return self.own(self.named(r".*\.py"))

    def own(self, paths: list[str]) -> list[str]:
        """Return those of `paths` that are no tests, examples or documents."""
        return [path for path in paths if not _OTHERS.search(path)]

    def text(self, path: str) -> str:
        """Return the text of a file; empty if it does not exist or is not UTF-8."""
        if path not in self._texts:
            try:
                self._texts[path] = (self.root / path).read_bytes().decode()
            except (OSError, UnicodeDecodeError):
                self._texts[path] = ""
        return self._texts[path]

    def matches(self, paths: list[str], pattern: str) -> list[str]:
        """Return `path:line: text` for each line that matches `pattern` and is not a comment."""
        compiled = re.compile(pattern)
        return [
            f"{path}:{number}: {without_login(line.strip())}"
            for path in paths
            for number, line in enumerate(self.text(path).splitlines(), 1)
            if not line.lstrip().startswith("#") and compiled.search(line)
        ]

    def _walk(self) -> Iterator[str]:
        for folder, folders, files in os.walk(self.root):
            here = Path(folder)
            folders[:] = [name for name in folders if self._is_own(here / name)]
            for name in files:
                file = here / name
                if not file.is_symlink() and file.is_file() and file.stat().st_size <= _LARGEST:
                    yield file.relative_to(self.root).as_posix()

    def _is_own(self, folder: Path) -> bool:
        hidden = folder.name.startswith(".") and folder.name not in _SHOWN
        other = folder.name in _SKIPPED or (folder / "pyvenv.cfg").exists() or folder.resolve() == _OURS
        return not (hidden or other)
