"""The file system of a SQLite file is found in the system's list of mounts."""

from pathlib import Path

import pytest

from api.migrations.databases.sqlite import placement
from api.migrations.databases.sqlite.placement import Placement, find

MOUNTS = """\
overlay / overlay rw,relatime 0 0
proc /proc proc rw 0 0
/dev/sdb1 /data ext4 rw 0 0
tmpfs /data/cache tmpfs rw 0 0
server:/export /mnt/shared nfs4 rw 0 0
//server/share /mnt/with\\040space cifs rw 0 0
tmpfs /run/over tmpfs rw 0 0
/dev/sdc1 /run/over xfs rw 0 0
/dev/sdb1 /srv/alone.db ext4 rw 0 0
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """Return a list of mounts in Linux's format."""
    path = tmp_path / "mounts"
    path.write_text(MOUNTS)
    return path


@pytest.mark.parametrize(
    ("path", "filesystem"),
    [
        ("/srv/shop.db", "overlay"),
        ("/data/shop.db", "ext4"),
        ("/database/shop.db", "overlay"),
        ("/data/cache/deep/shop.db", "tmpfs"),
        ("/mnt/shared/shop.db", "nfs4"),
        ("/mnt/with space/shop.db", "cifs"),
        ("/run/over/shop.db", "xfs"),
    ],
)
def test_the_innermost_mount_counts(mounts: Path, path: str, filesystem: str) -> None:
    """The file system is that of the innermost mount, compared by whole folder names, or the later of two mounts."""
    assert find(Path(path), mounts).filesystem == filesystem


def test_the_folder_of_a_file_that_is_mounted_alone_is_found(mounts: Path) -> None:
    """A file that is mounted alone has the file system of its folder too, which has the lock and the journal."""
    place = find(Path("/srv/alone.db"), mounts)
    assert (place.filesystem, place.folder) == ("ext4", "overlay")
    assert find(Path("/data/shop.db"), mounts).folder == ""


def test_a_link_is_followed(mounts: Path, tmp_path: Path) -> None:
    """The file system of a symbolic link is that of its target."""
    link = tmp_path / "here"
    link.symlink_to("/mnt/shared")
    assert find(link / "shop.db", mounts).shared_over_network


def test_a_system_without_a_list_of_mounts_has_no_file_system(tmp_path: Path) -> None:
    """A system without a list of mounts, such as macOS, gives an empty file system."""
    assert find(tmp_path / "shop.db", tmp_path / "nothing").filesystem == ""


@pytest.mark.parametrize("contained", [True, False])
def test_a_container_is_recognised_by_its_engine_s_file(
    mounts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contained: bool
) -> None:
    """A container is recognised by a file that its engine creates."""
    mark = tmp_path / "mark"
    monkeypatch.setattr(placement, "_MARKS", (str(mark),))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if contained:
        mark.touch()
    assert find(Path("/srv/shop.db"), mounts).ends_with_container is contained


def test_a_pod_is_recognised_by_its_environment(mounts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod without such a file is recognised by KUBERNETES_SERVICE_HOST."""
    monkeypatch.setattr(placement, "_MARKS", (str(tmp_path / "mark"),))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert find(Path("/srv/shop.db"), mounts).ends_with_container


@pytest.mark.parametrize(
    ("place", "network", "gone"),
    [
        (Placement("ext4", True), False, False),
        (Placement("overlay", True), False, True),
        (Placement("overlay", False), False, False),
        (Placement("tmpfs", True), False, True),
        (Placement("nfs", False), True, False),
        (Placement("", True), False, False),
        (Placement("fuse.sshfs", True), True, False),
        (Placement("fuse.gcsfuse", False), True, False),
        (Placement("fuse", False), True, False),
        (Placement("fuseblk", True), False, False),
        (Placement("fuse.fuse-overlayfs", True), False, True),
        (Placement("9p", True), False, False),
        (Placement("virtiofs", True), False, False),
        (Placement("ext4", True, "overlay"), False, True),
        (Placement("ext4", False, "nfs4"), True, False),
    ],
)
def test_a_file_system_is_shared_over_a_network_or_ends_with_the_container(
    place: Placement, network: bool, gone: bool
) -> None:
    """Each file system is shared over a network, or ends with the container, or neither."""
    assert (place.shared_over_network, place.ends_with_container) == (network, gone)
