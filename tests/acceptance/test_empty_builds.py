"""A build without revisions never serves, but Alembic can create its first revision in it."""

import shutil
from pathlib import Path

import pytest

from tests.support.fakes import tree
from tests.support.fleet import alembic, fleet, migrate, until_phase
from tests.support.places import SqlitePlace
from tests.support.project import ROOT

pytestmark = pytest.mark.acceptance

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"
"""No server listens there: a command that connected would report an unreachable database."""
MODELS = """\
import sqlalchemy as sa
from api.migrations.environment import run_env

metadata = sa.MetaData()
sa.Table("things", metadata, sa.Column("id", sa.Integer, primary_key=True))
run_env(metadata)
"""


@pytest.mark.parametrize("command", ["upgrade", "check", "doctor"])
def test_a_command_refuses_a_build_without_revisions(tmp_path: Path, command: str) -> None:
    """On a build without revisions the command exits with 2 and one line, before it connects."""
    code, output = migrate(command, url=NOWHERE, ini=tree(tmp_path))
    assert (code, len(output.splitlines())) == (2, 1), output
    assert f"this build has no revisions: no revision files in {tmp_path}/versions" in output


def test_an_instance_of_a_build_without_revisions_never_serves(tmp_path: Path) -> None:
    """With MIGRATION_ON_FAILURE=hold the instance stays up, answers 503, and names the folder without revisions."""
    ini = tree(tmp_path)
    with fleet(1, NOWHERE, ini=ini, MIGRATION_ON_FAILURE="hold") as (one,):
        until_phase([one], "failed")
        assert one.get("/health/ready").status_code == 503
        assert f"no revision files in {tmp_path}/versions" in one.health()["message"]


def test_alembic_creates_the_first_revision(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """Without revisions `upgrade` is refused and reading commands work; `revision --autogenerate` makes the first."""
    ini = tree(tmp_path, env=MODELS)
    shutil.copy(ROOT / "alembic" / "script.py.mako", tmp_path)

    def typed(*arguments: str) -> tuple[int, str]:
        return alembic(*arguments, url=sqlite_place.url, ini=ini, **sqlite_place.settings)

    for env in ("# version_locations are in alembic.ini\n" + MODELS, MODELS):
        (tmp_path / "env.py").write_text(env)
        code, output = typed("upgrade", "head")
        assert (code, "this build has no revisions" in output) == (1, True), output
    assert not sqlite_place.path.exists()
    for reading in (("history",), ("heads",), ("upgrade", "head", "--sql")):
        code, output = typed(*reading)
        assert code == 0, output
    code, output = typed("check")
    assert "New upgrade operations detected" in output, output
    code, output = typed("revision", "--autogenerate", "-m", "first")
    assert code == 0, output
    [made] = (tmp_path / "versions").glob("*.py")
    assert "op.create_table('things'" in made.read_text()
    code, output = typed("upgrade", "head")
    assert code == 0, output
    assert sqlite_place.has("things")
