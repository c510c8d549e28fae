"""The order in which the processes of a run read and run the test files.

pytest compiles each test file once and stores the result. In a new clone every process would compile every file at the
same time; therefore each process starts at another file, and finds most files compiled by another process.
"""

from pathlib import Path

import pytest

LONG = ("test_simulation.py", "test_sql_bad_days.py")
"""Files that take a minute: if one of them is among the last files, one process works while the others have ended."""

LATE = "test_dev_up.py"
"""It would wait for `ports_from_8000`, so it follows the other acceptance tests."""


def begin_elsewhere(config: pytest.Config) -> None:
    """Make this process, if it is one of several, read the test files from another file on than the others do."""
    worker = getattr(config, "workerinput", None)
    if worker is None or config.args != config.getini("testpaths"):
        return
    files = sorted(map(str, config.rootpath.joinpath(*config.args).rglob("test_*.py")))
    first = len(files) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    config.args = files[first:] + files[:first]


def put_in_order(items: list[pytest.Item]) -> None:
    """Sort the tests by file: the long files first, then the acceptance tests, then the others."""
    items.sort(key=lambda item: _place(item.path))


def _place(path: Path) -> tuple[int, bool, Path]:
    kinds = [path.name in LONG, path.parent.name == "acceptance", True]
    return kinds.index(True), path.name == LATE, path
