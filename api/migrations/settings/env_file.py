"""The file `.env`: an error names the file if it cannot be read.

python-dotenv raises what decoding it raised, and skips without a word what is no file.
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
"""UTF-8, with a byte order mark or without."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class EnvFile:
    """What a file has, without its values.

    Attributes:
        path: absolute.
        names: the variables, in their order.
        broken: the numbers of the lines that are no assignment; they are ignored.
    """

    path: Path
    names: tuple[str, ...] = ()
    broken: tuple[int, ...] = ()


def read() -> EnvFile:
    """What `.env` has; nothing if there is none.

    Raises:
        ConfigurationError: it cannot be read.
    """
    path = Path(ENV_FILE).absolute()
    # a statement begins after the empty lines that python-dotenv counts to it
    found = [(each, each.original.string) for each in parse_stream(StringIO(_content(path)))]
    names = tuple(each.key for each, _ in found if each.key is not None)
    broken = tuple(
        each.original.line + text[: len(text) - len(text.lstrip())].count("\n") for each, text in found if each.error
    )
    return EnvFile(path, names, broken)


@contextmanager
def checked() -> Iterator[None]:
    """Around the reading of settings: `.env` can be read, and python-dotenv says nothing of its own.

    Raises:
        ConfigurationError: it cannot be read.
    """
    _content(Path(ENV_FILE).absolute())
    library = logging.getLogger("dotenv.main")
    library.addFilter(_nothing)
    try:
        yield
    finally:
        library.removeFilter(_nothing)


def _nothing(_record: logging.LogRecord) -> bool:
    return False


def _content(path: Path) -> str:
    try:
        if not path.is_file():
            return _absent(path)
        content = path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise ConfigurationError(
            f"{path} cannot be read: {reason}. To fix: let the user of this process read it, or remove it and set the "
            "variables in the environment"
        ) from None
    return _decoded(path, content)


def _absent(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        raise ConfigurationError(
            f"{path} is a symbolic link to a file that does not exist. To fix: create that file, or remove the link"
        )
    # a virtual environment is often called so
    if path.is_dir() and not (path / "pyvenv.cfg").is_file():
        raise ConfigurationError(
            f"{path} is a folder, and settings are read from a file of that name; Docker makes such a folder where it "
            "mounts a file that does not exist. To fix: remove the folder, or put the file in its place"
        )
    return ""  # nothing, or a pipe that can be read only once


def _decoded(path: Path, content: bytes) -> str:
    try:
        if content.startswith(_UTF_16) or b"\0" in content:
            raise ConfigurationError(
                f"{path} is UTF-16, as Windows PowerShell writes files, and not UTF-8. To fix: save it as UTF-8"
            )
        return content.decode(ENCODING)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"{path} is not UTF-8: see line {line}. To fix: save it as UTF-8") from None
