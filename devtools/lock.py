"""`./dev lock`: resolves the dependencies of pyproject.toml and pins them, with their own dependencies and hashes.

It writes requirements.txt (the service) and requirements-dev.txt (the tools besides) from one resolution, so that a
package has one version in both. uv resolves for each supported Python and platform at once.
"""

import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from devtools.environment import entries

RUNTIME = "requirements.txt"
DEVELOPMENT = "requirements-dev.txt"
UNUSED = {"psycopg", "psycopg2", "squawk"}
"""Extras that the service does not use: its `env.py` opens no connection of its own, and squawk is a second linter."""
TOOLS = "dev"
HEADER = "# Made by `./dev lock` from pyproject.toml; the whole resolution, so that two machines install the same.\n"


def resolve(uv: str, folder: Path, extras: Iterable[str], *options: str) -> str:
    """Return the lock that uv makes for the project in `folder` with `extras`: exact versions with their hashes.

    Raises:
        subprocess.CalledProcessError: the requirements contradict one another, or the package index is unreachable.
    """
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    shape = ["--universal", "--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
    oldest = ["--python-version", project["requires-python"].removeprefix(">=")]
    chosen = [f"--extra={extra}" for extra in extras]
    command = [uv, "pip", "compile", *shape, *oldest, *chosen, *options, "pyproject.toml"]
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def lock(folder: Path, uv: str) -> None:
    """Write both requirement files of the project in `folder`, with the newest versions that fit."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    # the service of this repository runs on each database and with each strategy
    used = [extra for extra in project["optional-dependencies"] if extra not in {TOOLS, *UNUSED}]
    runtime, development = folder / RUNTIME, folder / DEVELOPMENT
    everything = resolve(uv, folder, [*used, TOOLS])
    development.write_text(everything)
    needed = resolve(uv, folder, used, f"--constraint={development}")
    further = [block for name, block in entries(everything).items() if name not in entries(needed)]
    runtime.write_text(HEADER + needed)
    development.write_text("".join([HEADER, f"-r {RUNTIME}\n", *further]))


def main() -> None:
    """Lock the project, with the machine's uv or one that is installed for this call."""
    project = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        uv = shutil.which("uv")
        if uv is None:
            subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, "uv"], check=True)
            uv = str(Path(folder, "bin", "uv"))
        lock(project, uv)


if __name__ == "__main__":
    main()
