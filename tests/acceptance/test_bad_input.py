"""Whatever is wrong, ./migrate.sh says it in one line with the right exit code, and an instance stays explainable."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.evidence import advisory_locks, versions
from tests.acceptance.fleet import environment, fleet, until_phase
from tests.acceptance.project import ROOT, head, make_history, quick, revision_file
from tests.pace import scaled
from tests.servers import Server
from tests.waiting import FOREVER_SECONDS
from tests.warm import Process

pytestmark = pytest.mark.acceptance

SECRET = "s3cret-word"
"""In every URL here; nobody may ever see it."""

LIMIT = f"{scaled(1):g}"
GUARDED = "guarded_bad_input"
"""A role that needs a password and may do nothing."""


@dataclass(frozen=True)
class Bad:
    """A command that must end with `code` and one line that has `words` in it.

    `settings` may name {server} (host:port), {database} and {folder} (an empty one).
    """

    words: str
    settings: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ("upgrade",)
    code: int = 2


def url(text: str) -> dict[str, str]:
    """Settings that name this database."""
    return {"DATABASE_URL": text}


NOWHERE = url(f"postgresql://someone:{SECRET}@127.0.0.1:1/nowhere")
HERE = url("postgresql://postgres@{server}/{database}")
BRIEFLY = ("upgrade", "--timeout", LIMIT)
GAVE_UP = f"gave up after MIGRATION_WAIT_SECONDS={LIMIT}"

SETTINGS = {
    "no DATABASE_URL": Bad("DATABASE_URL is not set. To fix: set it to postgresql://"),
    "not a URL": Bad("DATABASE_URL is not a database URL", url(f"someone {SECRET}")),
    "a misspelt scheme": Bad("DATABASE_URL is not a database URL", url(f"postgre://someone:{SECRET}@host/name")),
    "a port that is no number": Bad("a port is not a number", url(f"postgresql://someone:{SECRET}@host:5432a/name")),
    "a port too large": Bad("a port is not a number from 1 to 65535", url(f"postgresql://me:{SECRET}@host:65536/x")),
    "a # in the password": Bad("# is %23", url(f"postgresql://someone:{SECRET}#1@host/name")),
    "an sslmode there is not": Bad("sslmode", url(f"postgresql://someone:{SECRET}@127.0.0.1/name?sslmode=maybe")),
    "a certificate that is not there": Bad(
        "root certificate file",
        {**url(f"postgresql://someone:{SECRET}@127.0.0.1/name?sslmode=verify-full"), "HOME": "{folder}"},
    ),
    "its own URL is malformed": Bad("MIGRATION_DATABASE_URL is not a", {**NOWHERE, "MIGRATION_DATABASE_URL": SECRET}),
    "a database in memory": Bad("each connection would have a database of its own", url("sqlite://")),
    "another database": Bad("is not a database URL", url("oracle://scott:tiger@127.0.0.1/ledger")),
    "an unknown strategy": Bad("MIGRATION_STRATEGY='hope' is invalid: ", {**NOWHERE, "MIGRATION_STRATEGY": "hope"}),
    "Redis without its URL": Bad("needs MIGRATION_REDIS_URL", {**NOWHERE, "MIGRATION_STRATEGY": "redis"}),
    "Kubernetes outside of any": Bad("Kubernetes", {**NOWHERE, "MIGRATION_STRATEGY": "kubernetes", "HOME": "{folder}"}),
    "a number that is none": Bad("MIGRATION_POLL_SECONDS", {**NOWHERE, "MIGRATION_POLL_SECONDS": "soon"}),
    "a wait shorter than the run": Bad(
        "MIGRATION_WAIT_SECONDS (1) is shorter than MIGRATION_RUN_SECONDS (2)",
        {**NOWHERE, "MIGRATION_WAIT_SECONDS": "1", "MIGRATION_RUN_SECONDS": "2"},
    ),
    "paths that are no list": Bad("MIGRATION_OPEN_PATHS", {**NOWHERE, "MIGRATION_OPEN_PATHS": "/health"}),
    "no alembic.ini": Bad("set MIGRATION_ALEMBIC_CONFIG", {**NOWHERE, "MIGRATION_ALEMBIC_CONFIG": "{folder}/no.ini"}),
    "a port nobody listens on": Bad(GAVE_UP, NOWHERE, BRIEFLY, code=5),
    "a host nobody has": Bad(GAVE_UP, url(f"postgresql://me:{SECRET}@nowhere.invalid/x"), BRIEFLY, code=5),
}

ON_A_SERVER = {
    "a wrong password": Bad(
        "password authentication failed", url(f"postgresql://{GUARDED}:{SECRET}@{{server}}/{{database}}"), code=5
    ),
    "no password": Bad(
        "password authentication failed", url(f"postgresql://{GUARDED}@{{server}}/{{database}}"), code=5
    ),
    "an unknown role": Bad("authentication failed", url(f"postgresql://no_one:{SECRET}@{{server}}/x"), code=5),
    "an unknown database": Bad("does not exist", url(f"postgresql://postgres:{SECRET}@{{server}}/no_such"), code=5),
    "TLS where there is none": Bad("TLS", url("postgresql://postgres@{server}/{database}?sslmode=require"), code=5),
    "no permission": Bad(
        "permission denied for schema public",
        url(f"postgresql://{GUARDED}:right-{SECRET}@{{server}}/{{database}}"),
        code=1,
    ),
    "upgrade to an unknown revision": Bad("no revision 'nope'", HERE, ("upgrade", "nope")),
    "downgrade to an unknown revision": Bad("no revision 'nope'", HERE, ("downgrade", "nope", "--yes")),
    "stamp an unknown revision": Bad("no revision 'nope'", HERE, ("stamp", "nope")),
    "a downgrade by more than there is": Bad("-99", HERE, ("downgrade", "-99", "--yes")),
    "a schema that is not there": Bad(
        'schema "nowhere" does not exist', {**HERE, "MIGRATION_VERSION_TABLE_SCHEMA": "nowhere"}, code=1
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what migrate.sh needs: the settings of nobody's .env may get in the way."""
    tmp_path = tmp_path_factory.mktemp("project")
    for name in ("api", "alembic"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("alembic.ini", "migrate.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def guarded(server: Server) -> Iterator[None]:
    """The role `GUARDED`, whose password is not the secret itself."""
    server.execute(f"CREATE ROLE {GUARDED} LOGIN PASSWORD 'right-{SECRET}'")
    yield
    server.execute(f"DROP ROLE {GUARDED}")


def run(project: Path, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run what the copy's ./migrate.sh becomes to its end, its two outputs apart."""
    words = [sys.executable, "-m", "api.migrations", *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Process(words, cwd=project, env=environment(None, **settings), text=True, **pipes) as process:  # type: ignore[call-overload]
        output, errors = process.communicate(timeout=FOREVER_SECONDS)
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def fails(project: Path, bad: Bad, **names: str) -> None:
    """Run the command; assert that it ends as `bad` says, on standard error and with no more than one line."""
    settings = {name: value.format(folder=project, **names) for name, value in bad.settings.items()}
    done = run(project, *bad.arguments, **settings)
    assert (done.returncode, done.stdout) == (bad.code, ""), done.stderr
    lines = done.stderr.splitlines()
    waiting = [line for line in lines if line.startswith("Waiting for the database: ")]
    assert len(waiting) <= (bad.code == 5), done.stderr
    assert len(lines) - len(waiting) == 1, done.stderr
    assert bad.words in lines[-1]
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("bad", SETTINGS.values(), ids=SETTINGS)
def test_a_wrong_setting_is_one_line(project: Path, bad: Bad) -> None:
    """Said before or without any answer of a database, with the variable to correct and without the password."""
    fails(project, bad)


FILE = f"DATABASE_URL=postgresql://someone:{SECRET}@127.0.0.1:1/nowhere\n"


def test_an_env_file_in_another_encoding_is_one_line(project: Path) -> None:
    """Said by a command, by `alembic` typed by hand, and by the service when it starts."""
    (project / ".env").write_bytes(FILE.encode("utf-16"))
    words = f"{project / '.env'} is UTF-16, as Windows PowerShell writes files, and not UTF-8. To fix: save it as UTF-8"
    fails(project, Bad(f"ConfigurationError: {words}", arguments=("check",)))
    env = environment(None, MIGRATION_STARTUP_MODE="block")
    for command, code in ((["alembic", "current"], 1), (["uvicorn", "api.main:app", "--port", "0"], 3)):
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with Process([sys.executable, "-m", *command], cwd=project, env=env, **streams) as process:
            output, _ = process.communicate(timeout=FOREVER_SECONDS)
        assert (process.returncode, words in output) == (code, True), output
        assert SECRET not in output
        # the server shows how a lifespan failed
        assert ("Traceback" in output) is (command[0] == "uvicorn")


def test_an_env_file_that_may_not_be_read_is_one_line(project: Path) -> None:
    """It belongs to root, and the process does not run as root, or runs as a root that has no such right."""
    (project / ".env").write_text(FILE)
    (project / ".env").chmod(0)
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*without, sys.executable, "-m", "api.migrations", "check"]
    done = subprocess.run(
        command, cwd=project, env=environment(None), capture_output=True, text=True, timeout=FOREVER_SECONDS
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ConfigurationError: {project / '.env'} cannot be read: Permission denied. To fix: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("bad", ON_A_SERVER.values(), ids=ON_A_SERVER)
def test_what_the_server_or_the_history_refuses_is_one_line(
    project: Path, server: Server, database_url: str, bad: Bad
) -> None:
    """The cause and what to do about it; nothing is changed and no lock stays."""
    fails(project, bad, server=f"{server.host}:{server.port}", database=database_url.rpartition("/")[2])
    assert versions(database_url) == []
    assert advisory_locks(database_url) == 0


def test_several_heads_are_one_line(project: Path, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two branches without a merge are refused before the database is touched, with both heads and the way out."""
    ini = make_history(tmp_path_factory.mktemp("history"), quick("left"))
    below = quick("right").source(head())
    revision_file(ini, quick("right")).write_text(below)
    settings = {"DATABASE_URL": database_url, "MIGRATION_ALEMBIC_CONFIG": str(ini)}
    fails(project, Bad("several heads (left, right); join them with 'alembic merge heads'", settings))
    assert versions(database_url) == []


def test_a_downgrade_off_a_terminal_needs_yes(project: Path, ledger_url: str) -> None:
    """Nobody is there to ask, so nothing is undone."""
    fails(project, Bad("add --yes", url(ledger_url), ("downgrade", "-1")))
    assert versions(ledger_url) == [head()]


MALFORMED: tuple[str, dict[str, Any], str] = (
    f"postgresql://someone:{SECRET}@host:none/x",
    {},
    "a port is not a number",
)
UNKNOWN = (f"postgresql://someone:{SECRET}@127.0.0.1:1/x", {"MIGRATION_STRATEGY": "hope"}, "MIGRATION_STRATEGY")
UNREACHABLE = (
    f"postgresql://someone:{SECRET}@127.0.0.1:1/x",
    {"MIGRATION_WAIT_SECONDS": LIMIT, "MIGRATION_RUN_SECONDS": LIMIT},
    "Connection refused",
)
STARTS = pytest.mark.parametrize(
    ("database", "settings", "words"), [MALFORMED, UNKNOWN, UNREACHABLE], ids=["malformed", "unknown", "unreachable"]
)


@STARTS
def test_an_instance_on_hold_answers_what_is_wrong(database: str, settings: dict[str, Any], words: str) -> None:
    """It lives and is never ready; the probes and the log say why, and none of them says the password."""
    with fleet(1, database, MIGRATION_ON_FAILURE="hold", **settings) as (one,):
        until_phase([one], "failed")
        answer = one.get("/health/migrations")
        assert answer.status_code == 503
        assert words in answer.json()["message"]
        assert int(answer.headers["Retry-After"]) > 0
        assert one.get("/health/live").status_code == 200
        refused = one.get("/accounts/1")
        assert (refused.status_code, refused.headers["Content-Type"]) == (503, "application/problem+json")
        log = one.log()
        assert log.count("Not ready: ") == 1
        assert "Traceback" not in log
        assert SECRET not in log + answer.text + refused.text
        assert one.process.poll() is None


@STARTS
@pytest.mark.parametrize(("mode", "code"), [("gate", 143), ("block", 3)])
def test_an_instance_that_may_exit_says_why(
    database: str, settings: dict[str, Any], words: str, mode: str, code: int
) -> None:
    """A supervisor sees a failure, and the last lines of the log say which."""
    with fleet(1, database, MIGRATION_STARTUP_MODE=mode, **settings) as (one,):
        assert one.wait() == code
        log = one.log()
        said = [line for line in log.splitlines() if "Not ready: " in line]
        assert len(said) == 1
        assert words in said[0]
        assert SECRET not in log


def test_a_service_without_a_url_of_its_own_says_so(ledger_url: str) -> None:
    """The migration has its URL and is done, the pool has none: the instance ends and does not stay silent."""
    with fleet(1, None, MIGRATION_DATABASE_URL=ledger_url) as (one,):
        assert one.wait() == 143
        said = [line for line in one.log().splitlines() if " ERROR " in line]
        assert len(said) == 1
        assert "own lifespan failed: DATABASE_URL is not a database URL" in said[0]
        assert "Traceback" not in one.log()


def test_the_help_needs_no_database(project: Path) -> None:
    """With nothing set at all, `--help` lists every command and exit code."""
    script = ["./migrate.sh", "--help"]
    own = environment(None, VIRTUAL_ENV=sys.prefix)
    done = subprocess.run(script, cwd=project, env=own, capture_output=True, text=True, timeout=FOREVER_SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert "exit codes:" in done.stdout
