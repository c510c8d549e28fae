"""Finds the file system of a SQLite file, and whether several instances can share the file there.

SQLite needs one host, and one file for all instances. Its locks fail over a network ("Appropriate Uses For SQLite" of
its documentation), and in a container's own layer each instance has its own file.
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
    """The place of a file; an unknown file system is empty."""

    filesystem: str = ""
    in_container: bool = False
    folder: str = ""
    """The file system of the folder, if the file alone is mounted from another one."""

    @property
    def shared_over_network(self) -> bool:
        """Whether other hosts can open the file."""
        return any(map(_over_network, self._both))

    @property
    def file_alone(self) -> bool:
        """Whether the file is on a volume, but the lock and the journal beside it are not."""
        return bool(self.folder) and self.filesystem not in _GONE_WITH_THE_CONTAINER and self.ends_with_container

    @property
    def ends_with_container(self) -> bool:
        """Whether it is in a container's own layer or memory, which other instances cannot open."""
        return self.in_container and not _GONE_WITH_THE_CONTAINER.isdisjoint(self._both)

    @property
    def _both(self) -> tuple[str, str]:
        return self.filesystem, self.folder


def find(path: Path, mounts: Path = Path("/proc/self/mounts")) -> Placement:
    """Return the placement of `path`, which need not exist; unknown on a system without the list `mounts`."""
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
        # nearly all FUSE file systems are; those on a block device are called fuseblk
        return filesystem not in _GONE_WITH_THE_CONTAINER
    return filesystem in _NETWORK


def _filesystem(path: Path, mounts: list[str]) -> str:
    found, kind = -1, ""
    for line in mounts:
        _, point, filesystem, *_ = line.split(" ")
        folder = Path(point.replace("\\040", " "))
        # of two mounts at one folder, the later one counts
        if path.is_relative_to(folder) and len(folder.parts) >= found:
            found, kind = len(folder.parts), filesystem
    return kind


def refuse_unsafe(named: Strategy, placement: Placement) -> None:
    """Raise `ConfigurationError` for a file that the instances would not share, or could not lock."""
    if placement.shared_over_network:
        raise ConfigurationError(
            f"the SQLite file is on a network file system ({placement.filesystem}), where its locks do not hold. To "
            "fix: use PostgreSQL or MySQL for several hosts, or a local disk for one (decision table, row 'SQLite, "
            "several hosts')"
        )
    if named in {Strategy.ADVISORY_LOCK, Strategy.OFF}:
        return
    if placement.file_alone:
        raise ConfigurationError(
            f"the SQLite file is on a volume, but its folder is in the container's own {placement.folder}, so the "
            "instances would not share the lock and the journal. To fix: mount the folder; or, if there is only ever "
            "one instance, set MIGRATION_STRATEGY=advisory_lock (decision table, row 'SQLite, in a container')"
        )
    if placement.ends_with_container:
        raise ConfigurationError(
            f"the SQLite file is in the container's own {placement.filesystem}: each instance would have its own "
            "database, which ends with the container. To fix: put the file on a volume; or, if there is only ever one "
            "instance, set MIGRATION_STRATEGY=advisory_lock (decision table, row 'SQLite, in a container')"
        )
