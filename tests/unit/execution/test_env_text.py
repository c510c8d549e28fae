"""What an env.py may do is judged by its text, so that a start at head need not execute it."""

from pathlib import Path

import pytest

from api.migrations.execution.env_text import may_run_several

RUN = "context.run_migrations()\n"


@pytest.mark.parametrize(
    ("text", "several"),
    [
        ("from x import run_env\nrun_env(meta)\n", False),
        (f"if context.is_offline_mode():\n    {RUN}else:\n    {RUN}", False),
        ("def f():\n    return [m for m in models]\n" + RUN, False),
        (f"for tenant in tenants:\n    {RUN}", True),
        (f"while tenants:\n    {RUN}", True),
        ("run_env(a)\nrun_env(b)\n", True),
        (RUN * 3, True),
        ("context.script.version_locations = [here]\n" + RUN, True),
        ("from shared.alembic import migrate\nmigrate()\n", True),
        ("this is not Python\n", True),
    ],
)
def test_an_env_py_that_may_run_several_migrations_is_recognized(tmp_path: Path, text: str, several: bool) -> None:
    """An env.py whose text leaves the version tables open may run several migrations."""
    path = tmp_path / "env.py"
    path.write_text(text)
    assert may_run_several(path) is several


def test_the_project_s_env_py_runs_one_migration() -> None:
    """The project's own env.py runs one migration, so that a start at head need not execute it."""
    root = Path(__file__).resolve().parents[3]
    assert may_run_several(root / "alembic" / "env.py") is False
