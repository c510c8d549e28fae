"""`./dev python`: creates .venv from requirements-dev.txt, and again if the requirements change.

Uses only the standard library, because it runs before anything is installed.
"""

import fcntl
import hashlib
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")


def fingerprint(project: Path) -> str:
    """Return a digest of the pinned packages, this Python's version, and the folder, which the scripts contain."""
    contents = [(project / name).read_bytes() for name in REQUIREMENTS]
    return hashlib.sha256(b"\0".join([bytes(project), bytes(sys.version_info[:2]), *contents])).hexdigest()


def is_current(project: Path) -> bool:
    """Return whether .venv is complete and belongs to this folder and these requirements."""
    stamp = project / ".venv" / "stamp"
    python = project / ".venv" / "bin" / "python"
    return python.exists() and stamp.exists() and stamp.read_text() == fingerprint(project)


def build(project: Path) -> None:
    """Create .venv; the stamp comes last, so that an interrupted attempt is repeated.

    Raises:
        SystemExit: this Python cannot create environments, or a package could not be installed.
    """
    if find_spec("ensurepip") is None:
        raise SystemExit(f"dev: {sys.executable} cannot create environments. To fix: apt-get install python3-venv")
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"dev: creating .venv with Python {version} (once, less than a minute)", file=sys.stderr, flush=True)
    folder = project / ".venv"
    venv.create(folder, clear=True, with_pip=True, symlinks=True)
    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    if subprocess.run([*pip, "-r", str(project / "requirements-dev.txt")]).returncode != 0:
        raise SystemExit("dev: the packages could not be installed; see the lines of pip above")
    (folder / "stamp").write_text(fingerprint(project))


def ensure(project: Path) -> None:
    """Create .venv unless it is current; of several processes, one creates it and the others wait."""
    if is_current(project):
        return
    with (project / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_current(project):
            build(project)


if __name__ == "__main__":
    ensure(PROJECT)
