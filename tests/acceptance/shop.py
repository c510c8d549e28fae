"""Another FastAPI project, with a copy of api/migrations under another name beside an Alembic history of its own."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent

import httpx

from devtools.ports import HOST, free_port
from tests.support.fleet import Instance, environment
from tests.support.pace import scaled
from tests.support.project import ROOT, WAIT_FOR_THE_TEST
from tests.support.warm import Process, run

COPY = "shop.db_migrations"

MAIN = """\
from fastapi import FastAPI

from shop.db_migrations import lifespan_with_migrations

app = FastAPI(lifespan=lifespan_with_migrations)


@app.get("/things")
def things() -> list[str]:
    return ["a thing"]
"""

MODELS = """\
import sqlalchemy as sa

metadata = sa.MetaData()
things = sa.Table("things", metadata, sa.Column("name", sa.Text))
"""

REVISION = '''\
"""Create things; the second one waits until the test lets it go."""

import sqlalchemy as sa
from alembic import op

revision = "{id}"
down_revision = {below!r}


def upgrade():
{body}


def downgrade():
    pass
'''

BODIES = {
    "first": "op.execute('CREATE TABLE things (name text)')",
    "second": "op.execute(\"INSERT INTO things VALUES ('one')\")\n" + WAIT_FOR_THE_TEST,
}

RUN_ENV = """\
from shop.db_migrations.environment import run_env
from shop.models import metadata

run_env(metadata)
"""

COOKBOOK = """\
def run_migrations_online() -> None:
    connectable = config.attributes.get("connection", None)
    if connectable is None:
        connectable = engine_from_config(config.get_section(config.config_ini_section), poolclass=pool.NullPool)
    context.configure(connection=connectable, target_metadata=target_metadata)
    with context.begin_transaction():
        context.run_migrations()


"""

ASYNC_COOKBOOK = """\
def run_migrations_online() -> None:
    connectable = config.attributes.get("connection", None)
    if connectable is None:
        asyncio.run(run_async_migrations())
    else:
        do_run_migrations(connectable)


"""


def python(
    project: Path, *arguments: str, url: str | None = None, interpreter: str = sys.executable, **settings: str
) -> "subprocess.CompletedProcess[str]":
    """Run Python in the project's folder; it can import only from there and from the libraries."""
    return run([interpreter, *arguments], cwd=project, env=alone(url, **settings))


def alone(url: str | None, **settings: str) -> dict[str, str]:
    """Return an environment that does not lead to this repository."""
    return {name: value for name, value in environment(url, **settings).items() if name != "PYTHONPATH"}


def fresh_project(folder: Path, template: str, *, package: str = COPY) -> Path:
    """Create a FastAPI project with a history made by `alembic init`; return its folder.

    It has the copied folder, unless `package` names an installed one.
    """
    shop = folder / "shop"
    shop.mkdir()
    if package == COPY:
        copy = shop / "db_migrations"
        # with its compiled modules, without those that another process is writing
        shutil.copytree(ROOT / "api" / "migrations", copy, ignore=shutil.ignore_patterns("*.pyc.*"))
    (shop / "__init__.py").touch()
    (shop / "main.py").write_text(MAIN.replace(COPY, package))
    (shop / "models.py").write_text(MODELS)
    done = python(folder, "-m", "alembic", "init", "-t", template, "alembic")
    assert done.returncode == 0, done.stderr
    below = None
    for each, body in BODIES.items():
        text = REVISION.format(id=each, below=below, body=indent(body, "    "))
        (folder / "alembic" / "versions" / f"{each}.py").write_text(text)
        below = each
    return folder


def with_online(project: Path, online: str) -> Path:
    """Replace `run_migrations_online` in the template's env.py and keep the rest."""
    env = project / "alembic" / "env.py"
    text, replaced = re.subn(
        r"def run_migrations_online.*?(?=^if )", lambda _: online, env.read_text(), flags=re.S | re.M
    )
    assert replaced == 1
    env.write_text(text)
    return project


def adopted(folder: Path, how: str) -> Path:
    """Create a project whose env.py uses the given connection in one of the possible ways."""
    if how == "run_env":
        project = fresh_project(folder, "generic")
        (project / "alembic" / "env.py").write_text(RUN_ENV)
        return project
    if how == "the cookbook's":
        return with_online(fresh_project(folder, "generic"), COOKBOOK)
    return with_online(fresh_project(folder, "async"), ASYNC_COOKBOOK)


class Shop(Instance):
    """One `uvicorn shop.main:app` in the new project."""

    def __init__(
        self, name: str, url: str | None, project: Path, interpreter: str = sys.executable, **settings: str
    ) -> None:
        self.name = name
        self.port = free_port()
        self._log = project / f"{name}.log"
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(
            base_url=f"http://{HOST}:{self.port}", trust_env=False, timeout=scaled(10), limits=limits, verify=False
        )
        command = [interpreter, "-m", "uvicorn", "shop.main:app", "--host", HOST, "--port", str(self.port)]
        with self._log.open("wb") as log:
            self.process = Process(
                command,
                cwd=project,
                env=alone(url, MIGRATION_INSTANCE=name, **settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


@contextmanager
def shops(n: int, url: str | None, project: Path, **settings: str) -> Iterator[list[Shop]]:
    """Start `n` of them at once; stop them at the end of the block, and print their logs if it raises."""
    started: list[Shop] = []
    try:
        started.extend(Shop(f"shop-{number}", url, project, **settings) for number in range(1, n + 1))
        yield started
    except BaseException:
        for shop in started:
            sys.stdout.write(f"--- {shop!r}\n{shop.log()}\n")
        raise
    finally:
        for shop in started:
            shop.close()
