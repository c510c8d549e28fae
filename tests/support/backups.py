"""Backups in tests: where the programs are, stand-ins in front of them, and what lies in a folder."""

import os
from functools import cache
from pathlib import Path

from devtools.account import Account
from devtools.postgres import embedded_binaries

OLD = "#!/bin/sh\necho '{name} (PostgreSQL) 13.7'\n"
STAND_IN = """\
#!/bin/sh
[ "$1" = --version ] && exec {real} --version
{body}
"""


@cache
def programs() -> Path:
    """The folder with pg_dump and pg_restore of the embedded server's version."""
    return embedded_binaries(Account(), Path())


def path(*folders: Path) -> str:
    """A PATH on which `folders` come first, then the real programs, then what everybody has."""
    return os.pathsep.join([*map(str, folders), str(programs()), os.environ["PATH"]])


def stand_in(folder: Path, body: str) -> Path:
    """Put a pg_dump into `folder` that does `body`, in which `$real` is the real one; returns the folder."""
    folder.mkdir(exist_ok=True)
    real = programs() / "pg_dump"
    script = folder / "pg_dump"
    script.write_text(STAND_IN.format(real=real, body=f"real={real}\n{body}"))
    script.chmod(0o755)
    (folder / "pg_restore").symlink_to(programs() / "pg_restore")
    return folder


def old(folder: Path) -> Path:
    """Put a pg_dump and a pg_restore of PostgreSQL 13 into `folder`, which can do no more than say so."""
    folder.mkdir()
    for name in ("pg_dump", "pg_restore"):
        (folder / name).write_text(OLD.format(name=name))
        (folder / name).chmod(0o755)
    return folder


def held(folder: Path) -> Path:
    """A pg_dump that makes `folder/reached` and goes on once there is `folder/go`."""
    wait = f"while [ ! -e {folder}/go ]; do sleep 0.05; done"
    return stand_in(folder, f'echo $$ > {folder}/pid; mv {folder}/pid {folder}/reached; {wait}; exec $real "$@"')


def files(folder: Path) -> list[str]:
    """The names of what lies in a folder that may not be there."""
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []
