"""The order in which the processes of a run read and run the test files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.order import LATE, LONG, begin_elsewhere, put_in_order


def worker(folder: Path, number: int, count: int, *arguments: str) -> Any:
    """Return as much of the configuration of one of several processes as is read."""
    return SimpleNamespace(
        workerinput={"workerid": f"gw{number}", "workercount": count},
        rootpath=folder,
        args=list(arguments),
        getini=lambda _: ["tests"],
    )


def test_each_process_reads_every_file_and_begins_at_its_own(tmp_path: Path) -> None:
    """Three processes each read all six files, and each begins with another third of them."""
    files = [tmp_path / "tests" / f"test_{letter}.py" for letter in "abcdef"]
    files[0].parent.mkdir()
    for file in files:
        file.touch()
    for number in range(3):
        config = worker(tmp_path, number, 3, "tests")
        begin_elsewhere(config)
        assert sorted(config.args) == list(map(str, files))
        assert config.args[0] == str(files[2 * number])


def test_files_that_a_person_names_are_kept(tmp_path: Path) -> None:
    """A person names a file: the process reads that file only."""
    config = worker(tmp_path, 1, 2, "tests/test_a.py")
    begin_elsewhere(config)
    assert config.args == ["tests/test_a.py"]


def test_the_long_files_are_first_wherever_a_process_began() -> None:
    """Two processes that read the files in different orders run the same tests in the same order, long files first."""
    names = [
        f"integration/{LONG[0]}",
        "acceptance/test_job.py",
        f"acceptance/{LATE}",
        "chaos/test_chaos.py",
        "unit/test_a.py",
    ]
    items: list[Any] = [SimpleNamespace(path=Path("tests", name)) for name in names]
    for read in (items[::-1], items[2:] + items[:2]):
        put_in_order(read)
        assert read == items


def test_each_long_file_exists() -> None:
    """Each file that the order names exists."""
    found = {path.name for path in Path(__file__).parents[2].rglob("test_*.py")}
    assert {*LONG, LATE} <= found
