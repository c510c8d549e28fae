"""Backups in tests: where pg_dump and pg_restore are, stand-ins for them, and the files in a folder."""

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
    """Return the folder with pg_dump and pg_restore of the embedded server's version."""
    return embedded_binaries(Account(), Path())


def path(*folders: Path) -> str:
    """Return a PATH with `folders` first, then the real programs, then this process's PATH."""
    return os.pathsep.join([*map(str, folders), str(programs()), os.environ["PATH"]])


def stand_in(folder: Path, body: str) -> Path:
    """Put a pg_dump into `folder` that does `body`, in which `$real` is the real one; return the folder."""
    folder.mkdir(exist_ok=True)
    real = programs() / "pg_dump"
    script = folder / "pg_dump"
    script.write_text(STAND_IN.format(real=real, body=f"real={real}\n{body}"))
    script.chmod(0o755)
    (folder / "pg_restore").symlink_to(programs() / "pg_restore")
    return folder


def old(folder: Path) -> Path:
    """Put a pg_dump and a pg_restore into `folder` that only report PostgreSQL 13 as their version."""
    folder.mkdir()
    for name in ("pg_dump", "pg_restore"):
        (folder / name).write_text(OLD.format(name=name))
        (folder / name).chmod(0o755)
    return folder


def held(folder: Path) -> Path:
    """Put a pg_dump into `folder` that makes `folder/reached` and waits for `folder/go`."""
    wait = f"while [ ! -e {folder}/go ]; do sleep 0.05; done"
    return stand_in(folder, f'echo $$ > {folder}/pid; mv {folder}/pid {folder}/reached; {wait}; exec $real "$@"')


def files(folder: Path) -> list[str]:
    """Return the names of the files in a folder; none if the folder does not exist."""
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []
