"""`adopt` shows commands that migrate before the server, and probes of other paths."""

from pathlib import Path

import pytest

from tests.unit.cli.adopt.foreign_project import RUN_ENV, TEMPLATES, adopted, said, write


@pytest.mark.parametrize(
    ("path", "line", "words", "after"),
    [
        (
            "start.sh",
            "alembic upgrade head\nuvicorn shop.main:app",
            "before the server",
            "python -m api.migrations upgrade",
        ),
        (
            "Dockerfile",
            'CMD ["alembic", "upgrade", "head"]',
            "as a step of its own",
            '["python", "-m", "api.migrations", "upgrade"]',
        ),
        (
            "compose.yaml",
            "command: python -m alembic upgrade head",
            "a step of its own",
            "command: python -m api.migrations upgrade\n",
        ),
        ("compose.yaml", "command: alembic -c a.ini upgrade head", "MIGRATION_STRATEGY=job", None),
        (
            "Procfile",
            "release: alembic upgrade heads",
            "as a step of its own",
            "release: python -m api.migrations upgrade\n",
        ),
    ],
)
def test_a_command_that_migrates_without_the_lock_is_shown(
    folder: Path, path: str, line: str, words: str, after: str | None
) -> None:
    """`alembic upgrade head` beside an env.py of its own engine: the line, what may happen to it, and a diff."""
    write(folder, "migrations/env.py", (TEMPLATES / "generic" / "env.py").read_text())
    write(folder, path, f"{line}\n")
    result = adopted()
    assert f"do {path}:1 runs alembic upgrade head" in said(result, "command")
    assert words in said(result, "command")
    changed = [change.after.decode() for change in result.changes if change.path == path]
    assert [after in text for text in changed if after] == ([True] if after else [])
    write(folder, "migrations/env.py", RUN_ENV)
    assert "may " in said(adopted(), "command")


PROBES = """\
containers:
  - livenessProbe:
      httpGet:
        path: /healthz
        port: 8000
    readinessProbe: {{ httpGet: {{ path: "{ready}", port: 8000 }} }}
    volumes:
      - path: /data
"""


def test_probes_of_other_paths_get_those_of_the_package(folder: Path) -> None:
    """A manifest's probes ask other paths: the diff replaces those two paths and no other `path:`."""
    write(folder, "k8s/deployment.yaml", PROBES.format(ready="/ready"))
    result = adopted()
    assert "k8s/deployment.yaml:4 livenessProbe asks /healthz" in said(result, "probe")
    [change] = [change for change in result.changes if change.path.startswith("k8s")]
    wanted = PROBES.format(ready="/health/ready").replace("/healthz", "/health/live")
    assert (change.after.decode(), change.safe) == (wanted, False)
    write(folder, "k8s/deployment.yaml", wanted)
    assert said(adopted(), "probe").startswith("ok ")
