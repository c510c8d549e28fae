"""Revisions that are read as text are those that Alembic finds; where the text proves nothing, Alembic is asked."""

import random
from pathlib import Path

import pytest
from alembic.config import Config

from api.migrations.errors import ConfigurationError
from api.migrations.execution.revision_files import read
from api.migrations.execution.revisions import Revisions
from tests.support.fakes import revision, tree


def with_alembic(ini: Path) -> Revisions:
    """Return the revisions as Alembic reads them."""
    return Revisions(Config(str(ini)), "heads")


def written(folder: Path, graph: dict[str, tuple[str, ...]], depends: dict[str, str]) -> Path:
    """Write a revision for each id of `graph`, whose values are the parents, under file names in another order."""
    ini = tree(folder)
    for number, (name, below) in enumerate(graph.items()):
        down = None if not below else below[0] if len(below) == 1 else below
        extra = f"depends_on = {depends[name]!r}\n" if name in depends else ""
        text = f'"""Revision {name}.\n\nMore.\n"""\nrevision: str = {name!r}\ndown_revision = {down!r}\n{extra}'
        body = "def upgrade():\n    pass\n\n\ndef downgrade():\n    pass\n"
        (folder / "versions" / f"{(number * 7) % 100:03}_{name}.py").write_text(text + body)
    return ini


def any_graph(chance: random.Random) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Make up a history with branches, merges and dependencies."""
    graph: dict[str, tuple[str, ...]] = {}
    depends: dict[str, str] = {}
    for number in range(chance.randint(1, 12)):
        known, name = list(graph), f"r{number}"
        graph[name] = tuple(chance.sample(known, min(len(known), chance.choice((0, 1, 1, 1, 2)))))
        others = [one for one in known if one not in graph[name]]
        if others and chance.random() < 0.2:
            depends[name] = chance.choice(others)
    return graph, depends


@pytest.mark.parametrize("seed", range(40))
def test_the_text_says_what_alembic_finds(tmp_path: Path, seed: int) -> None:
    """In histories with branches, merges and dependencies, the text and Alembic agree on parents and heads."""
    ini = written(tmp_path, *any_graph(random.Random(seed)))
    files, loaded = read(str(ini), "alembic"), with_alembic(ini)
    assert files is not None
    assert (files.code.parents, files.code.heads) == (loaded.code.parents, loaded.code.heads)
    assert Revisions(str(ini), "heads").fingerprint == loaded.fingerprint
    for name in files.code.parents:
        assert Revisions(str(ini), "heads").describe(name) == loaded.describe(name) == f"{name}, Revision {name}"
    seen: set[str] = set()
    for name, parents in files.code.parents.items():
        assert parents <= seen, "a parent comes before its revision"
        seen.add(name)


UNCLEAR = {
    "a computed id": 'revision = "r" + str(2)\n',
    "an id in a condition": 'if True:\n    revision = "r2"\n',
    "an id in a tuple": 'revision, other = "r2", 1\n',
    "an id that is assigned twice": 'revision = "r2"\nrevision = "r3"\n',
    "an id that is imported": "from os import name as revision\n",
    "names that are imported": 'revision = "r2"\nfrom os import *\n',
    "a label as a parent": 'revision = "r2"\ndepends_on = "label"\n',
    "the beginning of an id as a parent": 'revision = "r2"\ndepends_on = "r"\n',
    "a call that may do anything": 'revision = "r2"\nprint()\n',
    "an error": 'revision = "r2"\nraise ValueError\n',
    "a limit that is no number": 'revision = "r2"\nlock_timeout_seconds = "long"\n',
    "the id of another file": 'revision = "r1"\n',
    "a file that is no Python": "revision = \n",
    "a file without an id": "other = 1\n",
}


@pytest.mark.parametrize("text", UNCLEAR.values(), ids=UNCLEAR.keys())
def test_what_the_text_does_not_prove_is_left_to_alembic(tmp_path: Path, text: str) -> None:
    """The text of one revision is unusual: nothing is concluded from it."""
    ini = tree(tmp_path, "pass")
    assert read(str(ini), "alembic") is not None
    body = "\n\ndef upgrade():\n    pass\n"
    (tmp_path / "versions" / "other.py").write_text(f'down_revision = "r1"\n{text}{body}')
    assert read(str(ini), "alembic") is None


@pytest.mark.parametrize("option", ["version_locations = elsewhere", "recursive_version_locations = true"])
def test_other_folders_are_left_to_alembic(tmp_path: Path, option: str) -> None:
    """Alembic's configuration names other folders: nothing is concluded from the usual one."""
    ini = tree(tmp_path, "pass")
    ini.write_text(ini.read_text().replace("script_location", f"{option}\nscript_location", 1))
    assert read(str(ini), "alembic") is None


@pytest.mark.parametrize(
    ("toml", "readable"),
    [
        ('[project]\ndependencies = [\n  "alembic"\n]\n', True),
        ('[tool.poetry.dependencies]\nalembic = "^1.13"\n', True),
        ('[tool.alembic]\nscript_location = "elsewhere"\n', False),
        ('[tool]\nalembic.script_location = "elsewhere"\n', False),
    ],
)
def test_a_configuration_in_toml_is_left_to_alembic(tmp_path: Path, toml: str, readable: bool) -> None:
    """A `pyproject.toml` beside the ini file counts only if it configures Alembic."""
    ini = tree(tmp_path, "pass")
    (tmp_path / "pyproject.toml").write_text(toml)
    assert (read(str(ini), "alembic") is not None) is readable


def test_limits_and_idempotence_are_read_from_the_text(tmp_path: Path) -> None:
    """A revision declares limits and `idempotent`: both are known without executing it."""
    ini = tree(tmp_path)
    revision(tmp_path, "r1", "pass", extra="idempotent = True\nlock_timeout_seconds = 10\n")
    files = read(str(ini), "alembic")
    assert files is not None
    assert files.code.idempotent == {"r1"}
    assert files.files["r1"].limits == {"lock_timeout_seconds": 10}


EXPAND, CONTRACT = 'phase = "expand"\n', 'phase = "contract"\nrequires = "r1"\n'


def two_revisions(folder: Path, marks: str) -> Path:
    """Write a build of two revisions, `r1` and on it `r2` with `marks`."""
    ini = tree(folder, "pass")
    body = "\n\ndef upgrade():\n    pass\n"
    (folder / "versions" / "r2.py").write_text(f'revision = "r2"\ndown_revision = "r1"\n{marks}{body}')
    return ini


@pytest.mark.parametrize("marks", [EXPAND, CONTRACT])
def test_the_marks_are_read_from_the_text(tmp_path: Path, marks: str) -> None:
    """A revision declares its phase: text and Alembic agree on it."""
    ini = two_revisions(tmp_path, marks)
    files = read(str(ini), "alembic")
    assert files is not None
    for code in (files.code, with_alembic(ini).code):
        assert code.expands == ({"r2"} if marks == EXPAND else frozenset())
        assert code.contracts == ({"r2": "r1"} if marks == CONTRACT else {})


WRONG_MARKS = {
    'phase = "migrate"\n': "r2.py: phase is 'migrate'. To fix: set it to 'expand' or 'contract', or remove it",
    'phase = ["expand"]\n': "phase is ['expand']",
    'phase = "contract"\n': "phase is 'contract', and requires is None. To fix: set requires to the id of the revision",
    'phase = "contract"\nrequires = 1\n': "phase is 'contract', and requires is 1",
    'phase = "contract"\nrequires = "r9"\n': "requires names 'r9', and no revision file has that id",
    'phase = "contract"\nrequires = "r2"\n': "requires names 'r2', which is no ancestor of r2",
    'phase = "expand"\nrequires = "r1"\n': "requires counts for a contract only, and stands with phase = 'expand'",
    'requires = "r1"\n': "requires counts for a contract only, and stands without a phase",
}


@pytest.mark.parametrize(("marks", "message"), WRONG_MARKS.items())
def test_a_wrong_mark_is_refused(tmp_path: Path, marks: str, message: str) -> None:
    """A wrong phase, or a wrong `requires`, is refused with the file's name and the remedy, without a database."""
    with pytest.raises(ConfigurationError) as refused:
        Revisions(str(two_revisions(tmp_path, marks)))
    assert message in str(refused.value)
    assert "r2.py: " in str(refused.value)
    assert "To fix: " in str(refused.value)
