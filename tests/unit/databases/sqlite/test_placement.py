"""Where a SQLite file lies, by the system's list of mounts."""

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
    """A list as Linux has it."""
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
    """By whole names, and of two on one place the later one."""
    assert find(Path(path), mounts).filesystem == filesystem


def test_the_folder_counts_as_well(mounts: Path) -> None:
    """The lock and the journal lie there, in a container's own layer, although the file is on a volume."""
    place = find(Path("/srv/alone.db"), mounts)
    assert (place.filesystem, place.folder) == ("ext4", "overlay")
    assert find(Path("/data/shop.db"), mounts).folder == ""


def test_a_link_is_followed(mounts: Path, tmp_path: Path) -> None:
    """The file lies where the link leads."""
    link = tmp_path / "here"
    link.symlink_to("/mnt/shared")
    assert find(link / "shop.db", mounts).shared_over_network


def test_a_system_without_a_list_tells_nothing(tmp_path: Path) -> None:
    """As macOS."""
    assert find(tmp_path / "shop.db", tmp_path / "nothing").filesystem == ""


@pytest.mark.parametrize("contained", [True, False])
def test_a_container_is_known_by_its_mark(
    mounts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contained: bool
) -> None:
    """A file that the container's engine leaves there."""
    mark = tmp_path / "mark"
    monkeypatch.setattr(placement, "_MARKS", (str(mark),))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if contained:
        mark.touch()
    assert find(Path("/srv/shop.db"), mounts).ends_with_container is contained


def test_a_pod_is_known_by_its_environment(mounts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every engine leaves a mark."""
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
def test_what_follows_from_a_place(place: Placement, network: bool, gone: bool) -> None:
    """A volume is safe, in a container as well; a container's own layer is not, nor is a network."""
    assert (place.shared_over_network, place.ends_with_container) == (network, gone)
