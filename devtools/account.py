"""Whom a server of ours runs as: PostgreSQL and PgBouncer refuse root, and in a bare container we are root."""

import os
import pwd
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict


class Identity(TypedDict, total=False):
    """The arguments of `subprocess` that start a process as somebody else; empty for ourselves."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """Whom the server runs as: ourselves, or `nobody` when we are root."""

    identity: Identity = field(default_factory=lambda: Identity())

    @classmethod
    def unprivileged(cls) -> "Account":
        """Choose the account that a server refusing root can run as."""
        if os.geteuid() != 0:
            return cls()
        nobody = pwd.getpwnam("nobody")
        return cls(Identity(user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[]))

    def own(self, *paths: Path) -> None:
        """Give `paths` to the account, readable by nobody else."""
        for path in paths:
            path.chmod(0o700 if path.is_dir() else 0o600)
            if self.identity:
                os.chown(path, self.identity["user"], self.identity["group"])

    def reaches(self, path: Path) -> bool:
        """Whether the account may look into `path`: a clone under /root is closed to everybody else."""
        try:
            return subprocess.run(["ls", str(path)], capture_output=True, **self.identity).returncode == 0
        except PermissionError:
            return False
