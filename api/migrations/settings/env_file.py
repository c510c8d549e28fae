"""Reads the file `.env`, with errors that name the file.

Python-dotenv raises the decoding error as it is, and silently skips a path that is not a file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from dotenv.parser import parse_stream

from ..errors import ConfigurationError

ENV_FILE = ".env"
"""In the current folder."""

ENCODING = "utf-8-sig"
"""UTF-8, with or without a byte order mark."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class EnvFile:
    """The content of a file without its values: its variables, and the numbers of lines that are not assignments."""

    path: Path
    names: tuple[str, ...]
    broken: tuple[int, ...]


def read() -> EnvFile:
    """Return the content of `.env`, empty if it does not exist. Raises `ConfigurationError` if it cannot be read."""
    path = Path(ENV_FILE).absolute()
    names, broken = [], []
    for binding in parse_stream(StringIO(_content(path))):
        if binding.key is not None:
            names.append(binding.key)
        if binding.error:
            # python-dotenv counts the empty lines before a statement as a part of it
            text = binding.original.string
            broken.append(binding.original.line + text[: len(text) - len(text.lstrip())].count("\n"))
    return EnvFile(path, tuple(names), tuple(broken))


@contextmanager
def checked() -> Iterator[None]:
    """Raise `ConfigurationError` if `.env` cannot be read, and silence python-dotenv's own log lines meanwhile."""
    _content(Path(ENV_FILE).absolute())
    library = logging.getLogger("dotenv.main")
    library.addFilter(_drop)
    try:
        yield
    finally:
        library.removeFilter(_drop)


def _drop(_record: logging.LogRecord) -> bool:
    return False


def _content(path: Path) -> str:
    try:
        if not path.is_file():
            _refuse_other_than_file(path)
            return ""  # it does not exist, or is a pipe, which can be read once only
        content = path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise ConfigurationError(
            f"{path} cannot be read: {reason}. To fix: let the user of this process read it, or remove it and set the "
            "variables in the environment"
        ) from None
    if content.startswith(_UTF_16) or b"\0" in content:
        raise ConfigurationError(
            f"{path} is UTF-16, as Windows PowerShell writes files, and not UTF-8. To fix: save it as UTF-8"
        )
    try:
        return content.decode(ENCODING)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"{path} is not UTF-8: see line {line}. To fix: save it as UTF-8") from None


def _refuse_other_than_file(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise ConfigurationError(
            f"{path} is a symbolic link to a file that does not exist. To fix: create that file, or remove the link"
        )
    # a virtual environment often has this name
    if path.is_dir() and not (path / "pyvenv.cfg").is_file():
        raise ConfigurationError(
            f"{path} is a folder, but settings are read from a file with that name. Docker creates such a folder when "
            "it mounts a file that does not exist. To fix: remove the folder, or replace it with the file"
        )
