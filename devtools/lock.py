"""`./dev lock`: resolves the dependencies of pyproject.toml and pins them, with their own dependencies.

It writes requirements.txt (the service) and requirements-dev.txt (the service and the tools) from one resolution, so
that a package has one version in both. It runs with the oldest Python that the project supports, because newer Pythons
can install that one's backports.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

RUNTIME = "requirements.txt"
DEVELOPMENT = "requirements-dev.txt"
UNUSED = {"psycopg", "psycopg2", "squawk"}
"""Extras that the service does not use: its `env.py` opens no connection of its own, and squawk is a second linter."""
HEADER = "# Made by `./dev lock` from pyproject.toml; the whole resolution, so that two machines install the same.\n"


def resolve(requirements: Iterable[str], *options: str) -> dict[str, str]:
    """Return the package versions that pip chooses for `requirements`, as lower-case name to exact version.

    Raises:
        subprocess.CalledProcessError: the requirements contradict one another, or the package index is unreachable.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    answer = subprocess.run([*command, *options, *requirements], check=True, stdout=subprocess.PIPE)
    packages = (item["metadata"] for item in json.loads(answer.stdout)["install"])
    return {package["name"].lower().replace("_", "-"): package["version"] for package in packages}


def pins(versions: dict[str, str]) -> str:
    """Return `versions` as the lines of a requirements file."""
    return "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def oldest_supported(requires_python: str) -> tuple[int, ...]:
    """Return `>=3.11` as (3, 11)."""
    return tuple(int(part) for part in requires_python.removeprefix(">=").split("."))


def lock(folder: Path) -> None:
    """Write both requirement files of the project in `folder`.

    Raises:
        SystemExit: this Python is not the oldest one the project supports.
    """
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    oldest = oldest_supported(project["requires-python"])
    if sys.version_info[:2] != oldest:
        wanted = ".".join(map(str, oldest))
        raise SystemExit(
            f"dev: lock needs Python {wanted}, the oldest supported. To fix: DEV_PYTHON=python{wanted} ./dev lock"
        )
    extras = project["optional-dependencies"]
    tools = extras.pop("dev")
    # the service of this repository runs on each database and with each strategy
    used = (names for extra, names in extras.items() if extra not in UNUSED)
    requirements = [*project["dependencies"], *(name for names in used for name in names)]
    runtime, development = folder / RUNTIME, folder / DEVELOPMENT
    everything = resolve([*requirements, *tools])
    development.write_text(pins(everything))
    needed = resolve(requirements, "--constraint", str(development))
    further = {name: version for name, version in everything.items() if name not in needed}
    runtime.write_text(HEADER + pins(needed))
    development.write_text(f"{HEADER}-r {RUNTIME}\n{pins(further)}")


if __name__ == "__main__":
    lock(Path(__file__).resolve().parent.parent)
