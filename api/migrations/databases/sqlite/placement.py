"""Where a SQLite file lies, and whether several instances can share it there.

SQLite needs one host, and a file that all instances see. Over a network its locks do not hold ("Appropriate Uses For
SQLite" of its documentation), and in a container's own layer each instance has a file of its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigurationError
from ...settings import Strategy

_NETWORK = frozenset("afs beegfs ceph cifs coda fuse glusterfs lustre ncpfs nfs nfs4 smb3 smbfs".split())
_GONE_WITH_THE_CONTAINER = frozenset({"overlay", "aufs", "tmpfs", "ramfs", "fuse.fuse-overlayfs"})
_MARKS = ("/.dockerenv", "/run/.containerenv")


@dataclass(frozen=True)
class Placement:
    """What is known of the place; a file system is empty where the system does not tell."""

    filesystem: str = ""
    in_container: bool = False
    folder: str = ""
    """The file system of the folder, where the file itself is mounted into another one."""

    @property
    def shared_over_network(self) -> bool:
        """Whether other hosts see the file."""
        return any(map(_over_network, self._both))

    @property
    def file_alone(self) -> bool:
        """Whether the file is on a volume, and the lock and the journal beside it are not."""
        return bool(self.folder) and self.filesystem not in _GONE_WITH_THE_CONTAINER and self.ends_with_container

    @property
    def ends_with_container(self) -> bool:
        """Whether it is in a container's own layer or memory, where no other instance sees it."""
        return self.in_container and not _GONE_WITH_THE_CONTAINER.isdisjoint(self._both)

    @property
    def _both(self) -> tuple[str, str]:
        return self.filesystem, self.folder


def find(path: Path, mounts: Path = Path("/proc/self/mounts")) -> Placement:
    """Where `path` lies, or would; on systems without such a list of `mounts` nothing is known."""
    contained = "KUBERNETES_SERVICE_HOST" in os.environ or any(Path(mark).exists() for mark in _MARKS)
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return Placement("", contained)
    real = path.absolute().resolve()
    file, folder = _filesystem(real, lines), _filesystem(real.parent, lines)
    return Placement(file, contained, folder if folder != file else "")


def _over_network(filesystem: str) -> bool:
    if filesystem.startswith("fuse."):
        # nearly all that run as a program are; the ones on a block device are called fuseblk
        return filesystem not in _GONE_WITH_THE_CONTAINER
    return filesystem in _NETWORK


def _filesystem(path: Path, mounts: list[str]) -> str:
    found, kind = -1, ""
    for line in mounts:
        _, point, filesystem, *_ = line.split(" ")
        folder = Path(point.replace("\\040", " "))
        # of two on one place the later one lies on top
        if path.is_relative_to(folder) and len(folder.parts) >= found:
            found, kind = len(folder.parts), filesystem
    return kind


def refuse_unsafe(named: Strategy, placement: Placement) -> None:
    """Refuse a file that the instances would not share, or could not lock, with the strategy that was asked for.

    Raises:
        ConfigurationError: the message names the row of the decision table.
    """
    if placement.shared_over_network:
        raise ConfigurationError(
            f"the SQLite file is on a network file system ({placement.filesystem}), where its locks do not hold; use "
            "PostgreSQL or MySQL for several hosts, or a local disk for one (decision table, row 'SQLite, several "
            "hosts')"
        )
    if named in {Strategy.ADVISORY_LOCK, Strategy.OFF}:
        return
    if placement.file_alone:
        raise ConfigurationError(
            f"only the SQLite file itself is on a volume, and its folder in the container's own {placement.folder}: "
            "neither the lock nor the journal beside it would be shared; mount the folder, or say that there is only "
            "ever one instance with MIGRATION_STRATEGY=advisory_lock (decision table, row 'SQLite, in a container')"
        )
    if placement.ends_with_container:
        raise ConfigurationError(
            f"the SQLite file is in the container's own {placement.filesystem}: every instance would have a database "
            "of its own, which ends with it; put the file on a volume, or say that there is only ever one instance "
            "with MIGRATION_STRATEGY=advisory_lock (decision table, row 'SQLite, in a container')"
        )
