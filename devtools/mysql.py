"""`python3 -m devtools.mysql`: unpacks a MySQL server for the tests into .data/mysql, once; installs nothing.

Debian has MySQL only in unstable. An apt with its own state and cache downloads the packages from the mirror of the
system's sources, with all libraries, including the C library. The server runs through the unpacked dynamic loader, so
the system's libraries do not change. This module uses only the standard library.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from devtools.account import Account

UNPACKED = Path(__file__).resolve().parent.parent / ".data" / "mysql"
"""Remove it to unpack a newer server."""
PACKAGE = "mysql-server-core"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SMALL = [
    "--innodb-buffer-pool-size=16M",
    "--innodb-redo-log-capacity=32M",
    "--innodb-doublewrite=OFF",
    "--innodb-flush-method=nosync",
]


def server_command(unpacked: Path, account: Account) -> list[str]:
    """Return the command that starts `mysqld` as `account`; the caller appends the data folder and other options."""
    [loader] = (unpacked / "usr/lib").glob("*/ld-linux*.so.*")
    server = [str(unpacked / "usr/sbin/mysqld"), "--no-defaults"]
    folders = [f"--lc-messages-dir={unpacked}/usr/share/mysql", f"--plugin-dir={unpacked}/usr/lib/mysql/plugin"]
    # mysqld drops root's rights by itself, because only root may be able to reach the folder
    user = [f"--user={account.identity['user']}"] if account.identity else []
    return [str(loader), "--library-path", str(loader.parent), *server, *folders, *user]


def data_folder(unpacked: Path) -> Path:
    """Return a data folder to copy: it has the system tables and a `root` without a password."""
    return unpacked / "data"


def fetch(unpacked: Path) -> None:
    """Download, unpack and initialise the server unless the folder exists; it appears when it is complete.

    Raises:
        SystemExit: apt has no Debian mirror, or a program failed; its output is above.
    """
    if unpacked.exists():
        return
    unpacked.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=unpacked.parent) as name:
        made = Path(name, "mysql")
        for package in _download(Path(name, "apt")):
            _run("dpkg-deb", "--extract", str(package), str(made))
        _initialise(made)
        made.rename(unpacked)


def _download(folder: Path) -> list[Path]:
    """Download the package and all its dependencies, as for a system without packages."""
    for needed in ("lists/partial", "archives/partial"):
        (folder / needed).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} unstable main\n")
    options = {
        "Dir::Etc::SourceList": f"{folder}/sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": str(folder),
        "Dir::State::status": f"{folder}/status",
        "Dir::Cache": str(folder),
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(f"--option={name}={value}" for name, value in options.items())]
    _run(*apt, "update")
    _run(*apt, "install", "--yes", "--download-only", "--no-install-recommends", PACKAGE)
    # only the server's scripts need Perl
    return [path for path in (folder / "archives").glob("*.deb") if not path.name.startswith(("perl", "libperl"))]


def _mirror() -> str:
    fields = "$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)"
    command = ["apt-get", "indextargets", f"--format={fields}", "Created-By: Packages"]
    targets = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = [line.split(" ")[-1] for line in targets if line.startswith("Debian Debian main ")]
    if not found:
        raise SystemExit("devtools.mysql: apt has no Debian mirror. To fix: on Debian, run apt-get update first")
    return found[0]


def _initialise(unpacked: Path) -> None:
    account = Account.unprivileged()
    with tempfile.TemporaryDirectory(prefix="my-", dir="/tmp") as home:
        account.own(Path(home))
        _run(*server_command(unpacked, account), *SMALL, f"--datadir={home}/data", "--initialize-insecure")
        shutil.copytree(Path(home, "data"), data_folder(unpacked))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise SystemExit(f"devtools.mysql: {Path(command[0]).name} failed with {done.returncode}; its output is above")


if __name__ == "__main__":
    fetch(UNPACKED)
