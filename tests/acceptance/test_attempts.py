"""A failure that a retry cannot repair is not retried: a proxy counts the connections of a command and an instance."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.wire import wire
from tests.support import evidence, project
from tests.support.fleet import fleet, migrate
from tests.support.servers import Server

pytestmark = pytest.mark.acceptance

ROLE = f"counted_{os.getpid()}"
REFUSED = {
    "a wrong password": (f"{ROLE}:wrong", None, "password authentication failed"),
    "an unknown role": ("no_one:wrong", None, "password authentication failed"),
    "an unknown database": (f"{ROLE}:right", "no_such_database", "does not exist"),
}


@pytest.fixture
def role(server: Server) -> Iterator[None]:
    """Create a role with a password that may only connect."""
    server.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'right'")
    yield
    server.execute(f"DROP ROLE {ROLE}")


@pytest.mark.usefixtures("role")
@pytest.mark.parametrize(("account", "database", "words"), REFUSED.values(), ids=REFUSED)
def test_a_refused_login_is_not_retried(database_url: str, account: str, database: str | None, words: str) -> None:
    """The server refuses password, role or database: command and instance connect once each and exit at once."""
    with wire(database_url) as (server, through):
        url = through.replace("postgres@", f"{account}@")
        if database is not None:
            url = url.replace(database_url.rpartition("/")[2], database)
        code, output = migrate("upgrade", url=url)
        assert (code, words in output) == (5, True), output
        assert server.connections == 1
        with fleet(1, url) as (instance,):
            assert instance.wait() == 143
            assert words in instance.log()
        assert server.connections == 2


def two_heads(folder: Path) -> Path:
    """Create the ledger's history with two revisions after its last one."""
    ini, right = project.make_history(folder, project.quick("left")), project.quick("right")
    project.revision_file(ini, right).write_text(right.source(project.head()))
    return ini


def test_several_heads_fail_before_any_connection(database_url: str, tmp_path: Path) -> None:
    """On a history with two heads the command and the instance fail, name both heads, and never connect."""
    ini = two_heads(tmp_path)
    with wire(database_url) as (server, url):
        code, output = migrate("upgrade", url=url, ini=ini)
        assert (code, "several heads (left, right)" in output) == (2, True), output
        with fleet(1, url, ini=ini) as (instance,):
            assert instance.wait() == 143
            assert "Not ready: " in instance.log()
            assert "several heads (left, right)" in instance.log()
        assert (server.connections, server.statements) == (0, [])
    assert evidence.versions(database_url) == []


def test_doctor_reports_several_heads(database_url: str, tmp_path: Path) -> None:
    """On a history with two heads `doctor` fails that one check, says how to merge them, and runs all other checks."""
    code, output = migrate("doctor", url=database_url, ini=two_heads(tmp_path))
    assert (code, " checks, 1 failed" in output) == (1, True), output
    assert re.search(
        r"^fail  schema .*several heads \(left, right\)\. To fix: join them with 'alembic merge heads'", output, re.M
    )
