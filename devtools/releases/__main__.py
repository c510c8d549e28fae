"""`python -m devtools.releases`: write the files of an earlier release, or make its patch anew."""

import argparse
import sys
from pathlib import Path

from devtools.releases import NEWEST, ReleaseError, release_tree, save_patch


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m devtools.releases", description=__doc__)
    parser.add_argument("action", choices=["tree", "save"], help="write the files; or make the patch from them")
    parser.add_argument("release", type=int, choices=range(1, NEWEST + 1))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    try:
        print((release_tree if given.action == "tree" else save_patch)(given.release, given.folder))
    except ReleaseError as error:
        print(f"releases: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
