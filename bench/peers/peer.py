"""What the measure needs to know of a tool."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import Skipped
from bench.laboratory import CACHE

SOURCES = Path(__file__).resolve().parent
INSTALL_SECONDS = 900


@dataclass(frozen=True)
class Peer:
    """A tool that applies migrations.

    Attributes:
        name: for the report.
        install: installs it unless it is installed, and returns its version. Raises `Skipped`.
        write: writes a folder with the given statements, each a migration of its own, oldest first.
        command: returns the words that apply such a folder to DATABASE_URL.
        settings: returns the variables that it needs besides DATABASE_URL.
        locks: whether it has a lock against a second one.
    """

    name: str
    install: Callable[[], str]
    write: Callable[[Path, Sequence[str]], None]
    command: Callable[[Path], list[str]]
    settings: Callable[[Path], Mapping[str, str]] = lambda folder: {}
    locks: bool = True


def needs(program: str, remedy: str) -> None:
    """Raise `Skipped` if a program is not on PATH."""
    if shutil.which(program) is None:
        raise Skipped(f"{program} is not installed", remedy)


def built(name: str, *commands: Sequence[str]) -> Path:
    """Copy the sources of a peer into .data/bench and run `commands` there, unless that was done; return the folder.

    Raises:
        Skipped: a command failed, for example because a registry cannot be reached.
    """
    sources, folder = SOURCES / name, CACHE / name
    stamp, wanted = folder / "stamp", _fingerprint(sources, commands)
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    print(f"installing {name} into {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    if sources.exists():
        shutil.copytree(sources, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for command in commands:
        _install(command, folder)
    # last, so that an interrupted attempt is repeated
    stamp.write_text(wanted)
    return folder


def _install(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        list(command), cwd=folder, env=dict(os.environ), capture_output=True, text=True, timeout=INSTALL_SECONDS
    )
    if done.returncode != 0:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise Skipped(f"`{' '.join(command)}` exited with {done.returncode}: {''.join(last)}", f"run it in {folder}")


def _fingerprint(sources: Path, commands: Sequence[Sequence[str]]) -> str:
    files = sorted(path for path in sources.rglob("*") if path.is_file())
    contents = [path.read_bytes() for path in files]
    return hashlib.sha256(b"\0".join([repr(commands).encode(), *contents])).hexdigest()


def numbered(folder: Path, pattern: str, texts: Sequence[str]) -> None:
    """Write each text into a file whose name is `pattern` with its number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts, 1):
        (folder / pattern.format(number=number)).write_text(text)
