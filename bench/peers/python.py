"""This project and bare Alembic, with the files of the other measures, and yoyo in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from bench.laboratory import CACHE, bare_upgrade, our_upgrade
from bench.peers.peer import Peer, built, numbered
from bench.projects import project

YOYO = ["yoyo-migrations==9.0.0", "psycopg[binary]==3.3.9", "setuptools==84.2.1"]
YOYO_PYTHON = CACHE / "yoyo" / "environment" / "bin" / "python"
FROM_ENVIRONMENT = (
    "import os, sys; from yoyo.scripts.main import main; "
    "url = os.environ['DATABASE_URL'].replace('postgresql:', 'postgresql+psycopg:'); "
    "main(['apply', '--batch', '--no-config-file', '--database', url, sys.argv[1]])"
)
"""Its command `yoyo apply`; the URL is not read from the environment without a configuration file."""


def _write(folder: Path, statements: Sequence[str]) -> None:
    project(folder, [f"op.execute({statement!r})" for statement in statements])


def _write_yoyo(folder: Path, statements: Sequence[str]) -> None:
    text = "from yoyo import step\n\nsteps = [step({!r})]\n"
    numbered(folder, "step_{number:06}.py", [text.format(statement) for statement in statements])


def _install_yoyo() -> str:
    built(
        "yoyo",
        [sys.executable, "-m", "venv", "environment"],
        [str(YOYO_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *YOYO],
    )
    show = [str(YOYO_PYTHON), "-c", "from importlib.metadata import version; print(version('yoyo-migrations'))"]
    return subprocess.run(show, capture_output=True, text=True, check=True).stdout.strip()


OURS = Peer(
    "this project",
    install=lambda: "",
    write=_write,
    command=lambda folder: our_upgrade(),
    settings=lambda folder: {"ALEMBIC_CONFIG": str(folder / "ours" / "alembic.ini")},
)
ALEMBIC = Peer(
    "Alembic",
    install=lambda: version("alembic"),
    write=_write,
    command=lambda folder: bare_upgrade(),
    settings=lambda folder: {"ALEMBIC_CONFIG": str(folder / "plain" / "alembic.ini")},
    locks=False,
)
YOYO_MIGRATIONS = Peer(
    "yoyo",
    install=_install_yoyo,
    write=_write_yoyo,
    command=lambda folder: [str(YOYO_PYTHON), "-c", FROM_ENVIRONMENT, str(folder)],
)
