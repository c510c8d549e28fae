"""A wrong setting or argument gives one line and its own exit code; an instance exits, or stays up and says why."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.evidence import advisory_locks, versions
from tests.support.fleet import environment, fleet, until_phase
from tests.support.pace import scaled
from tests.support.project import ROOT, head, make_history, quick, revision_file
from tests.support.servers import Server
from tests.support.waiting import FOREVER_SECONDS
from tests.support.warm import Process

pytestmark = pytest.mark.acceptance

SECRET = "s3cret-word"
"""The password in every URL here; no output may contain it."""

LIMIT = f"{scaled(1):g}"
GUARDED = "guarded_bad_input"
"""A role that needs a password and has no privileges."""


@dataclass(frozen=True)
class Bad:
    """A command that must exit with `code` and print one line that contains `words`.

    `settings` may name {server} (host:port), {database} and {folder} (an empty one).
    """

    words: str
    settings: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ("upgrade",)
    code: int = 2


def url(text: str) -> dict[str, str]:
    """Return the settings that name this database."""
    return {"DATABASE_URL": text}


NOWHERE = url(f"postgresql://someone:{SECRET}@127.0.0.1:1/nowhere")
HERE = url("postgresql://postgres@{server}/{database}")
BRIEFLY = ("upgrade", "--timeout", LIMIT)
GAVE_UP = f"timed out after MIGRATION_WAIT_SECONDS={LIMIT}"

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
    "a database in memory": Bad("each connection would have its own", url("sqlite://")),
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
    """Copy what migrate.sh needs into a folder without a .env file."""
    tmp_path = tmp_path_factory.mktemp("project")
    for name in ("api", "alembic"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("alembic.ini", "migrate.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def guarded(server: Server) -> Iterator[None]:
    """Create the role `GUARDED`, whose password differs from `SECRET`."""
    server.execute(f"CREATE ROLE {GUARDED} LOGIN PASSWORD 'right-{SECRET}'")
    yield
    server.execute(f"DROP ROLE {GUARDED}")


def run(project: Path, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m api.migrations` in the copy, with standard output and standard error apart."""
    words = [sys.executable, "-m", "api.migrations", *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Process(words, cwd=project, env=environment(None, **settings), text=True, **pipes) as process:  # type: ignore[call-overload]
        output, errors = process.communicate(timeout=FOREVER_SECONDS)
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def fails(project: Path, bad: Bad, **names: str) -> None:
    """Run the command; assert that it exits as `bad` says and prints one line, on standard error only."""
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
def test_a_wrong_setting_gives_one_line(project: Path, bad: Bad) -> None:
    """A command with a wrong setting exits with its code; its one line says what to correct and shows no password."""
    fails(project, bad)


FILE = f"DATABASE_URL=postgresql://someone:{SECRET}@127.0.0.1:1/nowhere\n"


def test_a_utf_16_env_file_gives_one_line(project: Path) -> None:
    """The .env file is UTF-16: a command, a manual `alembic` and the service fail and say to save it as UTF-8."""
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


def test_an_unreadable_env_file_gives_one_line(project: Path) -> None:
    """The process has no permission to read the .env file: `check` exits with 2 and one line that says so."""
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
def test_a_refusal_by_the_server_or_the_history_gives_one_line(
    project: Path, server: Server, database_url: str, bad: Bad
) -> None:
    """The server or the history refuses the command: one line says why, nothing is changed and no lock is left."""
    fails(project, bad, server=f"{server.host}:{server.port}", database=database_url.rpartition("/")[2])
    assert versions(database_url) == []
    assert advisory_locks(database_url) == 0


def test_two_heads_give_one_line(project: Path, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """On a history with two heads `upgrade` exits with 2, names them and the merge command, and changes nothing."""
    ini = make_history(tmp_path_factory.mktemp("history"), quick("left"))
    below = quick("right").source(head())
    revision_file(ini, quick("right")).write_text(below)
    settings = {"DATABASE_URL": database_url, "MIGRATION_ALEMBIC_CONFIG": str(ini)}
    fails(project, Bad("several heads (left, right). To fix: join them with 'alembic merge heads'", settings))
    assert versions(database_url) == []


def test_a_downgrade_without_a_terminal_needs_yes(project: Path, ledger_url: str) -> None:
    """Standard input is not a terminal: `downgrade` without --yes exits with 2 and undoes nothing."""
    fails(project, Bad("pass --yes", url(ledger_url), ("downgrade", "-1")))
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
def test_an_instance_on_hold_reports_its_failure(database: str, settings: dict[str, Any], words: str) -> None:
    """With MIGRATION_ON_FAILURE=hold a failed instance stays up, answers 503 with the reason, and shows no password."""
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
def test_a_failed_instance_exits_and_logs_why(
    database: str, settings: dict[str, Any], words: str, mode: str, code: int
) -> None:
    """Without `hold` a failed instance exits with 143 (mode gate) or 3 (mode block), and one log line says why."""
    with fleet(1, database, MIGRATION_STARTUP_MODE=mode, **settings) as (one,):
        assert one.wait() == code
        log = one.log()
        said = [line for line in log.splitlines() if "Not ready: " in line]
        assert len(said) == 1
        assert words in said[0]
        assert SECRET not in log


def test_a_service_without_a_url_for_its_pool_exits(ledger_url: str) -> None:
    """Only MIGRATION_DATABASE_URL is set: the service's pool has no URL, so the instance exits and logs that once."""
    with fleet(1, None, MIGRATION_DATABASE_URL=ledger_url) as (one,):
        assert one.wait() == 143
        said = [line for line in one.log().splitlines() if " ERROR " in line]
        assert len(said) == 1
        assert "own lifespan failed: DATABASE_URL is not a database URL" in said[0]
        assert "Traceback" not in one.log()


def test_the_help_needs_no_database(project: Path) -> None:
    """With no setting at all `./migrate.sh --help` exits with 0 and lists the exit codes."""
    script = ["./migrate.sh", "--help"]
    own = environment(None, VIRTUAL_ENV=sys.prefix)
    done = subprocess.run(script, cwd=project, env=own, capture_output=True, text=True, timeout=FOREVER_SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert "exit codes:" in done.stdout
