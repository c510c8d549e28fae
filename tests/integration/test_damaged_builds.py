"""A build without revisions or with a damaged file is refused in one line that names the file, without a database."""

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
"""The first bytes of the files that macOS adds to an archive."""
LATIN1 = "x = 'Größe'\n".encode("latin-1")


def refused(ini: Path, *words: str, **settings: str) -> None:
    """Assert that the build is refused with exit code 2 in one line that contains all `words`."""
    with pytest.raises(ConfigurationError) as raised:
        assembled(NOWHERE, ini, **settings)
    text = str(raised.value)
    assert [word for word in words if word not in text] == [], text
    assert "\n" not in text
    assert "To fix: " in text
    assert raised.value.exit_code == 2


def locations(ini: Path, *folders: str, recursive: bool = False) -> None:
    """Write the folders of revisions, relative to the ini, into `ini`."""
    named = os.pathsep.join(f"%(here)s/{folder}" for folder in folders)
    with ini.open("a") as file:
        file.write(f"version_locations = {named}\nrecursive_version_locations = {str(recursive).lower()}\n")


def test_a_folder_without_revisions_is_refused(tmp_path: Path) -> None:
    """The folder has no revisions: the error names it, the setting it comes from, and MIGRATION_STRATEGY=off."""
    ini = tree(tmp_path)
    where = f"no revision files in {tmp_path}/versions (script_location in {ini})"
    refused(ini, "this build has no revisions", where, "MIGRATION_STRATEGY=off")


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """The folder of revisions does not exist or is a file, as after a wrong COPY in a Dockerfile: the error says so."""
    ini = tree(tmp_path)
    (tmp_path / "versions").rmdir()
    refused(ini, "this build has no revisions", f"{tmp_path}/versions does not exist (script_location in {ini})")
    (tmp_path / "versions").touch()
    refused(ini, f"{tmp_path}/versions is not a folder")


def test_revisions_in_a_subfolder_are_refused_with_the_setting(tmp_path: Path) -> None:
    """Revisions are only in a subfolder: the error names recursive_version_locations, and with it they are found."""
    ini = tree(tmp_path)
    revision(tmp_path / "versions" / "2024", "r1", "pass")
    (tmp_path / "versions" / "2024" / "versions" / "r1.py").rename(tmp_path / "versions" / "2024" / "r1.py")
    refused(ini, f"but {tmp_path}/versions/2024 has some", "recursive_version_locations = true")
    locations(ini, "versions", recursive=True)
    assert list(Revisions(str(ini)).code.parents) == ["r1"]


@pytest.mark.parametrize("others", [(), ("versions",)], ids=["alone", "beside a good one"])
def test_a_misspelt_version_location_is_refused(tmp_path: Path, others: tuple[str, ...]) -> None:
    """A folder in version_locations does not exist: the build is refused, even if another folder has revisions."""
    ini = tree(tmp_path, "pass")
    locations(ini, *others, "verions")
    refused(ini, f"{tmp_path}/verions does not exist (version_locations in {ini})")


def test_strategy_off_accepts_a_build_without_revisions(tmp_path: Path) -> None:
    """With MIGRATION_STRATEGY=off a build without revisions is accepted, and one with a damaged file is refused."""
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


@pytest.mark.parametrize("kind", ["str", "Path"])
async def test_version_locations_that_env_py_sets_are_used(tmp_path: Path, kind: str) -> None:
    """env.py sets version_locations: the build reads the revisions there and is not called empty."""
    ini = tree(tmp_path, env=CHOOSES.replace("[str(", f"[{kind}("))
    revision(tmp_path, "r1", "pass")
    (tmp_path / "versions").rename(tmp_path / "more")
    assembly = await assembled(NOWHERE, ini).inspect()
    assert assembly.revisions.code.heads == {"r1"}


@pytest.mark.parametrize(
    ("env", "words"),
    [(CHOOSES, "/more does not exist (version_locations in env.py)"), (MENTIONS, "no revision files in")],
    ids=["misspelt", "a comment"],
)
async def test_a_start_reads_env_py_before_it_connects(tmp_path: Path, env: str, words: str) -> None:
    """env.py names no folder with revisions: the start fails before it connects to the database."""
    assembly = assembled(NOWHERE, tree(tmp_path, env=env), wait_seconds=5, run_seconds=5)
    with pytest.raises(ConfigurationError) as raised:
        await assembly.coordinator().become_ready()
    assert words in str(raised.value)


def replace_by_folder(path: Path) -> None:
    """Replace the file by a folder."""
    path.unlink()
    path.mkdir()


ENV: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "does not exist"),
    "a folder": (replace_by_folder, "Is a directory"),
    "undecodable": (lambda path: path.write_bytes(LATIN1), "codec can't decode"),
    "null bytes": (lambda path: path.write_bytes(APPLE_DOUBLE), "null bytes"),
    "a syntax error": (lambda path: path.write_text("run_env(\n"), "line 1"),
}


@pytest.mark.parametrize(("damage", "words"), ENV.values(), ids=ENV)
def test_an_env_py_that_cannot_be_run_is_refused(tmp_path: Path, damage: Callable[[Path], object], words: str) -> None:
    """env.py is missing, unreadable as text or has a syntax error: the build is refused and the error names it."""
    ini = tree(tmp_path, "pass")
    damage(tmp_path / "env.py")
    refused(ini, f"{tmp_path}/env.py ", words)


def test_a_compiled_env_py_is_accepted(tmp_path: Path) -> None:
    """A build without sources has only a compiled env.py: it is accepted, because Alembic runs it."""
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
    """A revision file cannot be loaded, or has a wrong id or parent: the build is refused with the file's name."""
    ini = tree(tmp_path, "pass")
    (tmp_path / "versions" / name).write_bytes(content)
    refused(ini, f"{tmp_path}/versions/{name}", words)


def test_a_dangling_link_is_refused_by_name(tmp_path: Path) -> None:
    """A revision file is a link whose target was not copied: the build is refused and the error names the target."""
    ini = tree(tmp_path, "pass")
    (tmp_path / "versions" / "r2.py").symlink_to(tmp_path / "gone.py")
    refused(ini, "gone.py does not load")


def test_a_cycle_is_refused_with_its_files(tmp_path: Path) -> None:
    """Three revisions are ancestors of one another: the build is refused and the error names their files."""
    ini = tree(tmp_path, "pass")
    for name, after in (("c1", "c3"), ("c2", "c1"), ("c3", "c2")):
        revision(tmp_path, name, "pass", after=after)
    refused(ini, "ancestors of one another", *(f"versions/c{number}.py" for number in (1, 2, 3)))


@pytest.mark.parametrize("name", ["versions/r1.py", "versions", "env.py"])
def test_a_file_without_read_permission_is_refused_by_name(name: str) -> None:
    """A plain user has no permission to read a file of the build: the build is refused and the error names it."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        ini = tree(Path(folder), "pass")
        (Path(folder) / name).chmod(0)
        with nobody():
            refused(ini, f"{folder}/{name} ", "Permission denied")
