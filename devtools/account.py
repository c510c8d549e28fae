"""The account of the servers that tests and tools start: PostgreSQL and PgBouncer refuse to run as root."""

import os
import pwd
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict


class Identity(TypedDict, total=False):
    """The arguments of `subprocess` that change the account; empty for the current one."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """The account of a server: the current one, or `nobody` if that is root."""

    identity: Identity = field(default_factory=lambda: Identity())

    @classmethod
    def unprivileged(cls) -> "Account":
        """Return an account other than root."""
        if os.geteuid() != 0:
            return cls()
        nobody = pwd.getpwnam("nobody")
        return cls(Identity(user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[]))

    def own(self, *paths: Path) -> None:
        """Make the account the owner of `paths`, which no other account can read."""
        for path in paths:
            path.chmod(0o700 if path.is_dir() else 0o600)
            if self.identity:
                os.chown(path, self.identity["user"], self.identity["group"])

    def reaches(self, path: Path) -> bool:
        """Return whether the account can read the folder `path`, which it cannot below /root."""
        try:
            return subprocess.run(["ls", str(path)], capture_output=True, **self.identity).returncode == 0
        except PermissionError:
            return False
