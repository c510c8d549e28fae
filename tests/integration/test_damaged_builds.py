"""A build without revisions or with a damaged file is refused in one line that names it, without any database."""

import os
import py_compile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from api.migrations.errors import ConfigurationError
from api.migrations.execution.revisions import Revisions
from tests.support.fakes import THREE_LINES, assembled, revision, tree
from tests.support.places import nobody

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X"
"""How macOS begins the files that it puts beside others in an archive."""
LATIN1 = "x = 'Größe'\n".encode("latin-1")


def refused(ini: Path, *words: str, **settings: str) -> None:
    """These files are refused in one line that has all words in it."""
    with pytest.raises(ConfigurationError) as raised:
        assembled(NOWHERE, ini, **settings)
    text = str(raised.value)
    assert [word for word in words if word not in text] == [], text
    assert "\n" not in text
    assert "To fix: " in text
    assert raised.value.exit_code == 2


def locations(ini: Path, *folders: str, recursive: bool = False) -> None:
    """Name the folders of revisions in `ini`, relative to its own."""
    named = os.pathsep.join(f"%(here)s/{folder}" for folder in folders)
    with ini.open("a") as file:
        file.write(f"version_locations = {named}\nrecursive_version_locations = {str(recursive).lower()}\n")


def test_a_folder_without_revisions_is_refused(tmp_path: Path) -> None:
    """The message has the absolute folder, where that came from, and the setting of a project that has none yet."""
    ini = tree(tmp_path)
    where = f"no revision files in {tmp_path}/versions (script_location in {ini})"
    refused(ini, "this build has no revisions", where, "MIGRATION_STRATEGY=off")


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """An image whose Dockerfile forgot to copy it."""
    ini = tree(tmp_path)
    (tmp_path / "versions").rmdir()
    refused(ini, "this build has no revisions", f"{tmp_path}/versions does not exist (script_location in {ini})")
    (tmp_path / "versions").touch()
    refused(ini, f"{tmp_path}/versions is not a folder")


def test_revisions_one_folder_deeper_are_pointed_out(tmp_path: Path) -> None:
    """They are not searched for, unless the setting that the message names says so."""
    ini = tree(tmp_path)
    revision(tmp_path / "versions" / "2024", "r1", "pass")
    (tmp_path / "versions" / "2024" / "versions" / "r1.py").rename(tmp_path / "versions" / "2024" / "r1.py")
    refused(ini, f"but {tmp_path}/versions/2024 has some", "recursive_version_locations = true")
    locations(ini, "versions", recursive=True)
    assert list(Revisions(str(ini)).code.parents) == ["r1"]


@pytest.mark.parametrize("others", [(), ("versions",)], ids=["alone", "beside a good one"])
def test_a_misspelt_version_location_is_refused(tmp_path: Path, others: tuple[str, ...]) -> None:
    """Also beside a good one: the revisions of the other folder would be missing without a word."""
    ini = tree(tmp_path, "pass")
    locations(ini, *others, "verions")
    refused(ini, f"{tmp_path}/verions does not exist (version_locations in {ini})")


def test_a_project_without_revisions_says_so(tmp_path: Path) -> None:
    """MIGRATION_STRATEGY=off accepts a folder that is empty, and no file that is damaged."""
    ini = tree(tmp_path)
    assert assembled(NOWHERE, ini, strategy="off").revisions.code.heads == set()
    (tmp_path / "versions" / "r1.py").write_bytes(LATIN1)
    refused(ini, "r1.py", strategy="off")


CHOOSES = """\
from pathlib import Path
from alembic import context
from api.migrations.environment import run_env

context.script.version_locations = [str(Path(__file__).parent / "more")]
run_env()
"""
MENTIONS = "# version_locations are in alembic.ini\n" + THREE_LINES


async def test_folders_that_env_py_chooses_count(tmp_path: Path) -> None:
    """A build is without revisions only after env.py was asked, where its text leaves that open."""
    ini = tree(tmp_path, env=CHOOSES)
    revision(tmp_path, "r1", "pass")
    (tmp_path / "versions").rename(tmp_path / "more")
    assembly = await assembled(NOWHERE, ini).inspect()
    assert assembly.revisions.code.heads == {"r1"}


@pytest.mark.parametrize(
    ("env", "words"),
    [(CHOOSES, "/more does not exist (version_locations in env.py)"), (MENTIONS, "no revision files in")],
    ids=["misspelt", "a comment"],
)
async def test_a_start_asks_env_py_before_the_database(tmp_path: Path, env: str, words: str) -> None:
    """Where that leads to no revisions either, the start fails; an empty database is not at head."""
    assembly = assembled(NOWHERE, tree(tmp_path, env=env), wait_seconds=5, run_seconds=5)
    with pytest.raises(ConfigurationError) as raised:
        await assembly.coordinator().become_ready()
    assert words in str(raised.value)


def directory(path: Path) -> None:
    """Put a folder there."""
    path.unlink()
    path.mkdir()


ENV: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "does not exist"),
    "a folder": (directory, "Is a directory"),
    "undecodable": (lambda path: path.write_bytes(LATIN1), "codec can't decode"),
    "null bytes": (lambda path: path.write_bytes(APPLE_DOUBLE), "null bytes"),
    "a syntax error": (lambda path: path.write_text("run_env(\n"), "line 1"),
}


@pytest.mark.parametrize(("damage", "words"), ENV.values(), ids=ENV)
def test_an_env_py_that_cannot_be_run_is_refused(tmp_path: Path, damage: Callable[[Path], object], words: str) -> None:
    """By whatever builds from these files: start-up and every command."""
    ini = tree(tmp_path, "pass")
    damage(tmp_path / "env.py")
    refused(ini, f"{tmp_path}/env.py ", words)


def test_a_compiled_env_py_is_enough(tmp_path: Path) -> None:
    """Alembic runs that of a build without sources."""
    ini = tree(tmp_path, "pass")
    py_compile.compile(str(tmp_path / "env.py"))
    (tmp_path / "env.py").unlink()
    assert assembled(NOWHERE, ini).revisions.code.heads == {"r1"}


FILES = {
    "of macOS": ("._r2.py", APPLE_DOUBLE, "null bytes"),
    "undecodable": ("r2.py", LATIN1, "codec can't decode"),
    "syntax": ("r2.py", b"def upgrade(:\n", "line 1"),
    "raises": ("r2.py", b"import os\n\nraise ValueError('at import')\n", "at import, at line 3"),
    "exits": ("r2.py", b"import sys\nsys.exit(0)\n", "SystemExit"),
    "no parent named": ("r2.py", b"revision = 'r2'\n", "down_revision"),
    "no id": ("r2.py", b"'''Nothing.'''\n", "Could not determine revision id"),
    "its own parent": ("r2.py", b"revision = down_revision = 'r2'\n", "r2"),
    "no such parent": ("r2.py", b"revision = 'r2'\ndown_revision = 'gone'\n", "names gone as its down_revision"),
    "no such dependency": (
        "r2.py",
        b"revision = 'r2'\ndown_revision = 'r1'\ndepends_on = ('r1', 'gone')\n",
        "names gone as its depends_on",
    ),
    "the id of another": ("copy.py", b"revision = 'r1'\ndown_revision = None\n", "have the id r1: "),
}


@pytest.mark.parametrize(("name", "content", "words"), FILES.values(), ids=FILES)
def test_a_damaged_revision_is_refused_by_name(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    """Alembic only warns of two that have one id, and raises a KeyError for a missing parent."""
    ini = tree(tmp_path, "pass")
    (tmp_path / "versions" / name).write_bytes(content)
    refused(ini, f"{tmp_path}/versions/{name}", words)


def test_a_file_that_is_only_a_link_is_named(tmp_path: Path) -> None:
    """What it leads to was not copied."""
    ini = tree(tmp_path, "pass")
    (tmp_path / "versions" / "r2.py").symlink_to(tmp_path / "gone.py")
    refused(ini, "gone.py does not load")


def test_a_cycle_is_refused_with_its_files(tmp_path: Path) -> None:
    """And with those only: the rest of the history is sound."""
    ini = tree(tmp_path, "pass")
    for name, after in (("c1", "c3"), ("c2", "c1"), ("c3", "c2")):
        revision(tmp_path, name, "pass", after=after)
    refused(ini, "ancestors of one another", *(f"versions/c{number}.py" for number in (1, 2, 3)))


@pytest.mark.parametrize("name", ["versions/r1.py", "versions", "env.py"])
def test_what_may_not_be_read_is_named(name: str) -> None:
    """As a file that root copied into an image with a narrow umask; root itself may read everything."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        ini = tree(Path(folder), "pass")
        (Path(folder) / name).chmod(0)
        with nobody():
            refused(ini, f"{folder}/{name} ", "Permission denied")
