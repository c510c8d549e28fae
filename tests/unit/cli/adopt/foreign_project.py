"""A project that might adopt the package, and what `adopt` says about it."""

import argparse
from pathlib import Path

import alembic

from api.migrations.cli.adopt.report import Adoption
from api.migrations.cli.commands import adopt

TEMPLATES = Path(alembic.__file__).parent / "templates"
RUN_ENV = "from api.migrations.environment import run_env\nrun_env(None)\n"
IMPORT = "from api.migrations import lifespan_with_migrations\n"

INI = "[alembic]\nscript_location = %(here)s/migrations\nsqlalchemy.url = postgresql://user:secret-word@host/shop\n"
MAIN = "from fastapi import FastAPI\n\napp = FastAPI()\n"
CONFIGURED = """\
from alembic import context
with engine.connect() as connection:
    {before}
    context.configure(connection)
"""


def write(folder: Path, path: str, text: str) -> None:
    """Write a file of the project, with the line ends of `text`."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(text.encode())


def adopted(*, write: bool = False) -> Adoption:
    """Run the command in the current folder."""
    result = adopt(argparse.Namespace(write=write, update=None, overwrite=False))
    assert isinstance(result, Adoption)
    return result


def said(result: Adoption, topic: str) -> str:
    """Return the messages about a topic, with what they ask."""
    return "\n".join(f"{fact.need} {fact.message}" for fact in result.facts if fact.topic == topic)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of each file."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
