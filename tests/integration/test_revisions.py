"""The revisions of a build, read from its files without a connection; an error in them is reported in one line."""

from pathlib import Path

import pytest

from api.migrations.core.protocols import MigrationRequest
from api.migrations.errors import ConfigurationError, UnknownRevision
from api.migrations.execution.revisions import Revisions
from tests.support.fakes import assembled, revision, tree

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"


def refused(ini: Path, *words: str, target: str = "head") -> None:
    """Assert that the build is refused in one line that contains all `words`."""
    with pytest.raises(ConfigurationError) as raised:
        assembled(NOWHERE, ini, target=target)
    text = str(raised.value)
    assert [word for word in words if word not in text] == [], text
    assert "\n" not in text


def test_revisions_are_read_oldest_first(tmp_path: Path) -> None:
    """The build reads its revisions oldest first, with their parents, the head and the idempotent ones."""
    ini = tree(tmp_path, "pass", "pass")
    revision(tmp_path, "r3", "pass", after="r2", extra="idempotent = True\n")
    code = Revisions(str(ini)).code
    assert list(code.parents) == ["r1", "r2", "r3"]
    assert code.parents["r3"] == {"r2"}
    assert code.heads == code.idempotent == {"r3"}


def test_only_true_makes_a_revision_idempotent(tmp_path: Path) -> None:
    """A revision sets `idempotent` to a text: it does not count as idempotent, so it is never run twice."""
    ini = tree(tmp_path)
    revision(tmp_path, "r1", "pass", extra='idempotent = "no"\n')
    assert Revisions(str(ini)).code.idempotent == set()


def test_a_dependency_counts_as_a_parent(tmp_path: Path) -> None:
    """A revision names another one in `depends_on`: that one counts as its parent."""
    ini = tree(tmp_path, "pass")
    revision(tmp_path, "x1", "pass", extra='depends_on = "r1"\n')
    assert Revisions(str(ini), "heads").code.parents["x1"] == {"r1"}


def test_several_heads_are_refused_with_both_names(tmp_path: Path) -> None:
    """The history has two heads: the build is refused with both names and both remedies."""
    ini = tree(tmp_path, "pass", "pass")
    revision(tmp_path, "other", "pass", after="r1")
    refused(ini, "other, r2", "alembic merge heads", "MIGRATION_TARGET=heads")


def test_several_heads_are_accepted_with_target_heads(tmp_path: Path) -> None:
    """With MIGRATION_TARGET=heads a history with two heads is accepted."""
    ini = tree(tmp_path, "pass", "pass")
    revision(tmp_path, "other", "pass", after="r1")
    assert assembled(NOWHERE, ini, target="heads").revisions.code.heads == {"other", "r2"}


def test_a_missing_ini_is_named_with_the_folder(tmp_path: Path) -> None:
    """alembic.ini is missing, often because the service runs elsewhere: the error names file, folder and setting."""
    refused(tmp_path / "alembic.ini", "alembic.ini not found in", str(Path.cwd()), "MIGRATION_ALEMBIC_CONFIG")


def test_a_missing_script_folder_is_named(tmp_path: Path) -> None:
    """The script folder is not in the image: the build is refused and the error names it."""
    ini = tree(tmp_path)
    ini.write_text("[alembic]\nscript_location = %(here)s/gone\npath_separator = os\n")
    refused(ini, "gone")


def test_an_ini_without_the_alembic_section_is_refused(tmp_path: Path) -> None:
    """The ini has no `[alembic]` section: the build is refused and the error names the file."""
    ini = tree(tmp_path)
    ini.write_text("[loggers]\nkeys = root\n")
    refused(ini, str(ini))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("def upgrade(:\n", "SyntaxError"),
        ("import not_installed_anywhere\n", "not_installed_anywhere"),
        ("revision = 'r2'\nraise ValueError('at import')\n", "at import"),
        ("'''no revision id'''\n", "broken.py"),
        ("revision = 'r2'\ndown_revision = 'gone'\n", "gone"),
    ],
    ids=["syntax", "import", "raises", "no id", "no parent"],
)
def test_a_broken_revision_file_is_refused_in_one_line(tmp_path: Path, body: str, word: str) -> None:
    """A revision file cannot be loaded: the error is one line with file and cause, and no traceback."""
    ini = tree(tmp_path, "pass")
    (tmp_path / "versions" / "broken.py").write_text(body)
    refused(ini, word, "broken.py")


@pytest.mark.parametrize("value", ["-1", "'10'", "True", "float('nan')", "float('inf')"])
def test_a_limit_that_is_no_duration_is_refused(tmp_path: Path, value: str) -> None:
    """A revision's lock timeout is no duration: the build is refused with file, name and the allowed values."""
    ini = tree(tmp_path)
    revision(tmp_path, "r1", "pass", extra=f"lock_timeout_seconds = {value}\n")
    refused(ini, "r1.py: lock_timeout_seconds is ", "To fix: set it to a number of seconds, or to 0 for no limit")


def test_targets_are_resolved_to_full_ids(tmp_path: Path) -> None:
    """The targets head, heads, base and an id are resolved to full revision ids."""
    revisions = Revisions(str(tree(tmp_path, "pass", "pass")))
    targets = {"head": {"r2"}, "heads": {"r2"}, "r1": {"r1"}, "base": set()}
    assert {target: set(revisions.resolve(target)) for target in targets} == targets


@pytest.mark.parametrize("target", ["zz", "r9", "nonsense"])
def test_an_unknown_target_is_refused(tmp_path: Path, target: str) -> None:
    """The target is no known revision: UnknownRevision with exit code 2 is raised."""
    with pytest.raises(UnknownRevision, match=target) as raised:
        Revisions(str(tree(tmp_path, "pass"))).resolve(target)
    assert raised.value.exit_code == 2


def test_the_plan_of_a_request_is_known_in_advance(tmp_path: Path) -> None:
    """The runner lists the revisions that an upgrade, downgrade or stamp will run, before it runs them."""
    runner = assembled(NOWHERE, tree(tmp_path, "pass", "pass", "pass")).runner
    assert runner.planned(MigrationRequest("upgrade", "head"), ["r1"]) == ("r2", "r3")
    assert runner.planned(MigrationRequest("upgrade", "head"), []) == ("r1", "r2", "r3")
    assert runner.planned(MigrationRequest("downgrade", "-2"), ["r3"]) == ("r3", "r2")
    assert runner.planned(MigrationRequest("stamp", "r3"), ["r1"]) == ()
    for order in (MigrationRequest("downgrade", "-9"), MigrationRequest("downgrade", "zz")):
        with pytest.raises(UnknownRevision):
            runner.planned(order, ["r3"])


def test_revisions_that_need_autocommit_are_found(tmp_path: Path) -> None:
    """The build finds the revisions with an autocommit_block before the first one runs."""
    block = "with op.get_context().autocommit_block():\n    pass"
    revisions = Revisions(str(tree(tmp_path, "pass", block, "pass", block)))
    assert revisions.needing_autocommit(("r1", "r2", "r3")) == ("r2",)


def test_a_revision_is_described_by_the_first_line_of_its_docstring(tmp_path: Path) -> None:
    """A revision is described by id and first docstring line; an unknown one by its id."""
    revisions = Revisions(str(tree(tmp_path, "pass")))
    assert [revisions.describe(name) for name in ("r1", "zz")] == ["r1, Do r1", "zz"]
    assert (revisions.path("r1"), revisions.path("zz")) == (str(tmp_path / "versions" / "r1.py"), None)
