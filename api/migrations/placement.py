"""Where a SQLite file lies, and whether several instances can share it there.

SQLite needs one host, and a file that all instances see. Over a network its locks do not hold ("Appropriate Uses For
SQLite" of its documentation), and in a container's own layer each instance has a file of its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_NETWORK = frozenset(
    "afs beegfs ceph cifs coda fuse.cephfs fuse.glusterfs fuse.s3fs fuse.sshfs glusterfs lustre ncpfs nfs nfs4 smb3 "
    "smbfs".split()
)
_GONE_WITH_THE_CONTAINER = frozenset({"overlay", "aufs", "tmpfs", "ramfs"})
_MARKS = ("/.dockerenv", "/run/.containerenv")


@dataclass(frozen=True)
class Placement:
    """What is known of the place; `filesystem` is empty where the system does not tell."""

    filesystem: str = ""
    in_container: bool = False

    @property
    def shared_over_network(self) -> bool:
        """Whether other hosts see the file."""
        return self.filesystem in _NETWORK

    @property
    def ends_with_container(self) -> bool:
        """Whether it is in a container's own layer or memory, where no other instance sees it."""
        return self.in_container and self.filesystem in _GONE_WITH_THE_CONTAINER


def find(path: Path, mounts: Path = Path("/proc/self/mounts")) -> Placement:
    """Where `path` lies, or would; on systems without such a list of `mounts` nothing is known."""
    contained = "KUBERNETES_SERVICE_HOST" in os.environ or any(Path(mark).exists() for mark in _MARKS)
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return Placement("", contained)
    return Placement(_filesystem(path.absolute().resolve(), lines), contained)


def _filesystem(path: Path, mounts: list[str]) -> str:
    found, kind = -1, ""
    for line in mounts:
        _, point, filesystem, *_ = line.split(" ")
        folder = Path(point.replace("\\040", " "))
        # of two on one place the later one lies on top
        if path.is_relative_to(folder) and len(folder.parts) >= found:
            found, kind = len(folder.parts), filesystem
    return kind
