"""Finds the PostgreSQL servers of the machine, so that `./dev up` downloads none if there is one."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path

from devtools.account import Account

OLDEST = 14
PLACES = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # Fedora, RHEL
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/usr/local/pgsql/bin",
)


def installed(account: Account) -> dict[int, Path]:
    """Return the folders of the programs that `account` can run, by major version, from OLDEST on."""
    found = ((_major(folder, account), folder) for folder in _folders())
    return {major: folder for major, folder in found if major >= OLDEST}


def choose(data: Path, servers: Mapping[int, Path], embedded: int) -> tuple[int, Path | None]:
    """Return major version and folder for `data`; a folder of None is the package, whose version is `embedded`.

    Data need the version that wrote them. New data get the newest server of the machine, or the package.

    Raises:
        LookupError: no server has the version that wrote the data; its argument is that version.
    """
    note = data / "PG_VERSION"
    major = int(note.read_text()) if note.exists() else max(servers, default=embedded)
    if major not in servers and major != embedded:
        raise LookupError(major)
    return major, servers.get(major)


def _folders() -> Iterator[Path]:
    for place in PLACES:
        yield from sorted(map(Path, glob(place)))  # noqa: PTH207 - Path.glob knows no absolute pattern
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).parent


def _major(folder: Path, account: Account) -> int:
    """Return the version of the server in `folder`, 0 if it cannot be run there."""
    if not (folder / "initdb").exists():
        return 0
    try:
        done = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, **account.identity)
    except OSError:
        return 0
    found = re.match(r"postgres \(PostgreSQL\) (\d+)", done.stdout)
    return int(found[1]) if found else 0
