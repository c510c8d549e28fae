"""The ledger's earlier releases, which a test or `./dev rollout` runs beside this one.

Release 3 is this repository. Each earlier one is this repository without the revisions that came after it, and with
the code of the ledger changed back by a patch: `2.patch` turns release 3 into release 2, `1.patch` that one into
release 1. So no history of git is needed, and an earlier release has all that is not the ledger's as it is now.

Release 1
    Knows `request_digest`, and neither numbers of accounts nor days of postings. Schema up to 097ced08409f.
Release 2, expand
    Writes `request_digest` and `request_sha256`; reads the new one or else the old one; goes on when the old one is
    dropped. Writes the days of postings and reads those of transactions. Schema up to df20da5ce722.
Release 3, contract
    Knows only `request_sha256`, and reads the days of postings. Schema up to the head.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from devtools.releases.patches import apply, difference

PROJECT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).resolve().parent

PARTS = ("api", "alembic", "alembic.ini", "migrate.sh")
"""What a tree has: enough for `uvicorn api.main:app` and `./migrate.sh` in it."""

HEADS = {1: "097ced08409f", 2: "df20da5ce722"}
"""The last revision of each earlier release."""
NEWEST = 3


class ReleaseError(Exception):
    """A patch does not fit the code of this repository any more."""


def release_tree(number: int, into: Path) -> Path:
    """Write the files of release `number` (1 to 3) into the folder `into`, which may be missing, and return it.

    Raises:
        ReleaseError: a patch does not apply; `into` has what could be changed.
    """
    into.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, into / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, into / part)
    for release in range(NEWEST - 1, number - 1, -1):
        _change_back(into, release)
    return into


def _change_back(tree: Path, release: int) -> None:
    """Turn a tree of the release after `release` into one of `release`."""
    revisions = sorted((tree / "alembic" / "versions").glob("*.py"))
    [last] = [file for file in revisions if f"_{HEADS[release]}_" in file.name]
    for file in revisions[revisions.index(last) + 1 :]:
        file.unlink()
    patch = PATCHES / f"{release}.patch"
    rejected = apply(patch.read_text() if patch.exists() else "", tree)
    if rejected:
        places = "; ".join(map(str, rejected))
        raise ReleaseError(
            f"devtools/releases/{patch.name} does not apply to: {places}. The code that it changes has changed. "
            f"To fix: python -m devtools.releases tree {release} FOLDER, correct these files in FOLDER, "
            f"python -m devtools.releases save {release} FOLDER"
        )


def save_patch(number: int, tree: Path) -> Path:
    """Write the patch of release `number` from a corrected tree of it, and return the patch's path.

    Raises:
        ReleaseError: the patch of a later release does not apply.
    """
    with TemporaryDirectory() as folder:
        later = release_tree(number + 1, Path(folder))
        patch = PATCHES / f"{number}.patch"
        patch.write_text(difference(later, tree))
    return patch
