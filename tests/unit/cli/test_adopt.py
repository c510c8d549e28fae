"""`adopt` shows each change of a project as a diff, and writes only the lifespan of one application and `fleet`."""

import argparse
import ast
from pathlib import Path

import alembic
import pytest

from api.migrations.cli.adopt import alembic_setup, env_file
from api.migrations.cli.adopt.application import with_lifespan
from api.migrations.cli.adopt.report import Adoption, Need
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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder: a project with a configuration, an env.py and an application, without a URL."""
    for name in ("DATABASE_URL", "MIGRATION_DATABASE_URL", "MIGRATION_ALEMBIC_CONFIG", "ALEMBIC_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    for path, text in {"alembic.ini": INI, "migrations/env.py": RUN_ENV, "shop/main.py": MAIN}.items():
        write(tmp_path, path, text)
    return tmp_path


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


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("app = FastAPI()", "app = FastAPI(lifespan=lifespan_with_migrations)"),
        ("app = FastAPI(title='ä')", "app = FastAPI(title='ä', lifespan=lifespan_with_migrations)"),
        ("app = FastAPI(\n  title='a',\n)", "app = FastAPI(\n  title='a',\n  lifespan=lifespan_with_migrations,\n)"),
        ("app = FastAPI(lifespan=mine)", "app = FastAPI(lifespan=lifespan_with_migrations.then(mine))"),
        ("app = FastAPI(lifespan=a(b), x=1)", "app = FastAPI(lifespan=lifespan_with_migrations.then(a(b)), x=1)"),
        ("app = FastAPI(**k, lifespan=mine)", "app = FastAPI(**k, lifespan=lifespan_with_migrations.then(mine))"),
        ("app = FastAPI(**settings)", None),
        ("app = FastAPI(title=('a'))", None),
    ],
)
def test_the_lifespan_is_added_to_the_call_and_nothing_else_changes(before: str, after: str | None) -> None:
    """The lifespan is added, or wraps the given one; a call that cannot be changed safely is left to a person."""
    text = f'"""A service."""\nimport os\n\n{before}\n'
    call = next(
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and "FastAPI" in ast.dump(node.func)
    )
    assert with_lifespan(text, call) == (after and f'"""A service."""\nimport os\n{IMPORT}\n{after}\n')


def test_only_write_writes_and_only_the_lifespan(folder: Path) -> None:
    """`adopt` writes nothing; `--write` writes the lifespan and keeps line ends; the next run has nothing to do."""
    write(folder, "shop/main.py", MAIN.replace("\n", "\r\n"))
    write(folder, "Procfile", "web: alembic upgrade head && uvicorn shop.main:app\n")
    before = contents(folder)
    shown = adopted()
    assert contents(folder) == before
    assert [change.safe for change in shown.changes] == [True]
    written = adopted(write=True)
    changed = before | {str(folder / "shop/main.py"): written.changes[0].after}
    assert contents(folder) == changed
    assert b"FastAPI(lifespan=lifespan_with_migrations)\r\n" in written.changes[0].after
    assert b"\n" not in written.changes[0].after.replace(b"\r\n", b"")
    again = adopted(write=True)
    assert (again.changes, contents(folder)) == ([], changed)
    assert "ok shop/main.py:4 has lifespan_with_migrations" in said(again, "app")


def test_a_file_that_changed_meanwhile_is_not_written(folder: Path) -> None:
    """The file changes between reading and writing: `write` refuses and keeps the new content."""
    [change] = adopted().changes
    write(folder, "shop/main.py", MAIN + "# mine\n")
    assert not change.write(folder)
    assert (folder / "shop/main.py").read_text() == MAIN + "# mine\n"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"shop/other.py": MAIN}, "several applications: shop/main.py:3, shop/other.py:3"),
        ({"shop/hooks.py": "import fastapi\n@app.on_event('startup')\ndef f(): ...\n"}, "does not run these handlers"),
    ],
)
def test_write_leaves_a_doubtful_application_to_a_person(folder: Path, files: dict[str, str], words: str) -> None:
    """Several applications, or handlers that a lifespan would switch off: the facts say so, and nothing is written."""
    for path, text in files.items():
        write(folder, path, text)
    before = contents(folder)
    result = adopted(write=True)
    assert words in said(result, "app")
    assert "--write made none of them" in result.message
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("scripts/openapi.py", MAIN),
        ("shop/schema.py", "from fastapi import FastAPI\n\nprint(FastAPI().openapi())\n"),
        ("tests/app.py", MAIN),
    ],
)
def test_an_application_that_serves_nobody_is_not_changed(folder: Path, path: str, text: str) -> None:
    """A script, a call whose result is dropped, and a test do not count; alone in a project they are not written."""
    write(folder, path, text)
    assert [(change.path, change.safe) for change in adopted().changes] == [("shop/main.py", True)]
    (folder / "shop/main.py").unlink()
    before = contents(folder)
    assert not any(change.safe for change in adopted(write=True).changes)
    assert contents(folder) == before


def test_the_application_of_the_server_command_is_chosen(folder: Path) -> None:
    """Of two applications the change is for the one that the Dockerfile starts."""
    write(folder, "shop/other.py", MAIN)
    write(folder, "Dockerfile", 'CMD ["uvicorn", "shop.other:app", "--workers", "4"]\n')
    result = adopted()
    assert [(change.path, change.safe) for change in result.changes] == [("shop/other.py", True)]
    assert "one process in one container" in said(result, "server")


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (RUN_ENV, "ok calls run_env"),
        ((TEMPLATES / "generic" / "env.py").read_text(), "may opens a connection of its own"),
        ((TEMPLATES / "async" / "env.py").read_text(), "may opens a connection of its own"),
        ("c = config.attributes.get('connection')\ncontext.configure(c)\n", "ok uses the connection that it is given"),
        ("config.attributes.get('configure_logger')\nengine.connect()\n", "may opens a connection of its own"),
        ("import elsewhere\n", "unknown its text does not show"),
        ("def f(\n", "unknown migrations/env.py does not parse: SyntaxError"),
        ("", "do migrations/env.py does not exist"),
    ],
)
def test_the_shape_of_env_py_is_recognised(folder: Path, env: str, words: str) -> None:
    """Alembic's templates, the cookbook's env.py and run_env are told apart by their text."""
    write(folder, "migrations/env.py", env)
    assert words in said(adopted(), "env.py")


def test_a_transaction_around_the_revisions_is_shown(folder: Path) -> None:
    """env.py begins a transaction itself: the line, and that it is refused if it surrounds the revisions."""
    write(folder, "migrations/env.py", CONFIGURED.format(before="connection.begin()"))
    wanted = "may begins a transaction, which is refused if it surrounds the revisions"
    assert f"{wanted}. To fix: remove it then: migrations/env.py:3: connection.begin()" in said(adopted(), "env.py")
    write(folder, "migrations/env.py", (TEMPLATES / "async" / "env.py").read_text())
    assert wanted not in said(adopted(), "env.py")


def test_several_databases_are_recognised(folder: Path) -> None:
    """Alembic's template `multidb` may stay, on PostgreSQL only."""
    write(folder, "migrations/env.py", (TEMPLATES / "multidb" / "env.py").read_text())
    text = said(adopted(), "env.py")
    assert "may migrates several databases (Alembic's template multidb), which may stay on PostgreSQL" in text


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `adopt` run as the distribution, whose plugin Alembic loads."""
    for module in (alembic_setup, env_file):
        monkeypatch.setattr(module, "IS_INSTALLED", True)


TOML = "[tool.alembic]\nscript_location = 'migrations'\n"


@pytest.mark.parametrize(
    ("files", "changed"),
    [
        ({"alembic.ini": INI}, "alembic.ini"),
        ({"alembic.ini": INI.replace("\n", "\r\n")}, "alembic.ini"),
        ({"pyproject.toml": TOML}, "pyproject.toml"),
        # Alembic's template `pyproject` writes both
        ({"alembic.ini": "[alembic]\nsqlalchemy.url = driver://\n", "pyproject.toml": TOML}, "pyproject.toml"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_the_installed_package_adds_fleet_to_the_configuration(
    folder: Path, files: dict[str, str], changed: str
) -> None:
    """`--write` inserts `fleet = true` below the header of Alembic's section; the next run finds it."""
    (folder / "alembic.ini").unlink()
    for path, text in files.items():
        write(folder, path, text)
    write(folder, "migrations/env.py", (TEMPLATES / "generic" / "env.py").read_text())
    write(folder, "Procfile", "release: alembic upgrade head\n")
    result = adopted(write=True)
    assert "acquires the lock only with `fleet = true` in [" in said(result, "env.py")
    assert [change.path for change in result.changes if change.written] == ["shop/main.py", changed]
    header, _, rest = files[changed].partition("\n")
    end = "\r\n" if header.endswith("\r") else "\n"
    assert (folder / changed).read_bytes().decode() == f"{header}\nfleet = true{end}{rest}"
    again = adopted(write=True)
    assert "acquires the lock too" in said(again, "env.py")
    assert "it acquires the instances' lock" in said(again, "command")
    assert again.changes == []


@pytest.mark.parametrize(
    ("ini", "env"),
    [
        (f"{INI}[audit]\nscript_location = audit\n", "engine.connect()\n"),
        (f"{INI}fleet = false\n", "engine.connect()\n"),
        (INI, RUN_ENV),
        (INI, "import elsewhere\n"),
        (INI, CONFIGURED.format(before="connection.begin()")),
    ],
    ids=["several sections", "switched off", "run_env", "an unknown env.py", "a transaction"],
)
@pytest.mark.usefixtures("installed")
def test_fleet_is_not_written_where_it_is_doubtful(folder: Path, ini: str, env: str) -> None:
    """Where the section, the wish or the shape of env.py is doubtful, `--write` leaves the configuration as it is."""
    write(folder, "alembic.ini", ini)
    write(folder, "migrations/env.py", env)
    adopted(write=True)
    assert (folder / "alembic.ini").read_text() == ini


def test_a_lock_of_the_project_is_shown_with_its_removal(folder: Path) -> None:
    """env.py acquires an advisory lock: the line is shown, and a diff, which `--write` does not make, removes it."""
    lock = 'connection.execute(text("SELECT pg_advisory_lock(42)"))'
    write(folder, "migrations/env.py", CONFIGURED.format(before=lock))
    result = adopted()
    assert f"To fix: remove it: migrations/env.py:3: {lock}" in said(result, "env.py")
    [change] = [change for change in result.changes if change.path == "migrations/env.py"]
    assert (f"-    {lock}\n" in change.diff, "configure" in change.after.decode(), change.safe) == (True, True, False)


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


def test_nothing_is_contacted_and_no_password_is_shown(folder: Path) -> None:
    """Without a URL the facts say what was not checked; passwords in files are in no output."""
    write(folder, "requirements.txt", "fastapi\nalembic\nsqlmodel\n")
    write(folder, "start.sh", "DATABASE_URL=postgresql://u:secret-word@h/d gunicorn --workers 4\n")
    result = adopted()
    assert "unknown DATABASE_URL is not set; the files name postgresql." in said(result, "database")
    assert "not in requirements.txt: asyncpg, pydantic-settings" in said(result, "packages")
    assert "unknown not contacted" in said(result, "server")
    assert "secret-word" not in "\n".join(result.lines())
    assert {fact.need for fact in result.facts} >= {Need.OK, Need.DO, Need.UNKNOWN}


def test_requirements_of_other_folders_do_not_count(folder: Path) -> None:
    """The root's requirements and those of `backend` count; a file of a tool somewhere below does not."""
    write(folder, "utils/telemetry/setup.py", "install_requires = ['asyncpg']\n")
    assert "no requirements were found" in said(adopted(), "packages")
    write(folder, "backend/pyproject.toml", "dependencies = ['alembic', 'sqlalchemy']\n")
    assert "not in backend/pyproject.toml: asyncpg, pydantic-settings" in said(adopted(), "packages")
    write(folder, "requirements.txt", "alembic\nasyncpg\nsqlmodel\npydantic-settings\n")
    assert "ok in requirements.txt: alembic, asyncpg" in said(adopted(), "packages")


@pytest.mark.usefixtures("installed")
def test_the_installed_package_needs_itself_in_the_requirements(folder: Path) -> None:
    """The distribution brings its dependencies; the requirements must name it, with the extra of the database."""
    write(folder, "requirements.txt", "fastapi\nalembic-fleet[metrics]\n")
    assert "ok in requirements.txt: alembic-fleet" in said(adopted(), "packages")
    write(folder, "alembic.ini", INI.replace("postgresql://", "mysql+asyncmy://"))
    assert "not in requirements.txt: alembic-fleet[mysql]" in said(adopted(), "packages")
    write(folder, "requirements.txt", "alembic-fleet[metrics,mysql]>=0.1\n")
    assert "ok in requirements.txt: alembic-fleet[mysql]" in said(adopted(), "packages")


def test_scripts_in_an_installed_package_are_found_without_importing_it(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`script_location = package:folder` names an installed package; without it adopt says that it read nothing."""
    write(folder, "alembic.ini", INI.replace("%(here)s/migrations", "depot.store:db/scripts"))
    result = adopted()
    assert "unknown alembic.ini [alembic]: no package for script_location depot.store:db/scripts" in said(
        result, "alembic"
    )
    assert said(result, "env.py") == ""
    site = tmp_path_factory.mktemp("site")
    write(site, "depot/__init__.py", "raise RuntimeError('imported')\n")
    write(site, "depot/store/db/scripts/env.py", CONFIGURED.format(before="lock('pg_advisory_lock')"))
    write(site, "depot/store/db/scripts/versions/a.py", "")
    monkeypatch.syspath_prepend(site)
    result = adopted(write=True)
    scripts = f"{site.as_posix()}/depot/store/db/scripts"
    assert f"scripts in {scripts}, 1 files in versions/" in said(result, "alembic")
    assert "may opens a connection of its own" in said(result, "env.py")
    assert [change.path for change in result.changes] == ["shop/main.py"]


def test_a_configuration_in_another_folder_or_section_is_named(folder: Path) -> None:
    """The ini is in a subfolder and has another section: the facts name the two settings."""
    (folder / "alembic.ini").unlink()
    write(folder, "backend/alembic.ini", INI.replace("[alembic]", "[core]"))
    write(folder, "backend/migrations/env.py", RUN_ENV)
    text = said(adopted(), "alembic")
    assert "backend/alembic.ini [core], scripts in backend/migrations" in text
    assert "MIGRATION_ALEMBIC_CONFIG=backend/alembic.ini" in text
    assert "MIGRATION_ALEMBIC_SECTION is alembic" in text
