"""The programs that can install packages into .venv: uv if the machine has it, pip of the machine, or pip of .venv."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

OLDEST_PIP = (22, 3)
"""The first pip that can install into an environment of another Python."""
OPTIONS = ("--no-input", "--disable-pip-version-check", "--no-compile", "--progress-bar=off")


def installers(python: Path) -> Iterator[list[str]]:
    """Yield commands that install into the environment of `python`; each further one is for the case of a failure.

    Raises:
        SystemExit: the machine has neither pip nor the module that brings it.
    """
    uv = shutil.which("uv")
    if uv:
        yield [uv, "pip", "install", "--python", str(python)]
    yield [*_pip(python), "install", *OPTIONS]


def _pip(python: Path) -> list[str]:
    machine = [str(Path(sys.executable).resolve()), "-u", "-m", "pip"]
    if _version(machine) >= OLDEST_PIP:
        return [*machine, "--python", str(python)]
    own = [str(python), "-u", "-m", "pip"]
    if _version(own) < OLDEST_PIP:
        if find_spec("ensurepip") is None:
            raise SystemExit(f"dev: {sys.executable} has no pip. To fix: apt-get install python3-venv, or install uv")
        subprocess.run([str(python), "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
    return own


def _version(pip: list[str]) -> tuple[int, ...]:
    done = subprocess.run([*pip, "--version"], capture_output=True, text=True)
    found = re.match(r"pip (\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else (0,)
