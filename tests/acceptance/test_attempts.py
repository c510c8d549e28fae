"""What cannot succeed is not tried again: connections counted on the wire, for the command and for an instance."""

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
    """A role with a password, which may connect and no more."""
    server.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'right'")
    yield
    server.execute(f"DROP ROLE {ROLE}")


@pytest.mark.usefixtures("role")
@pytest.mark.parametrize(("account", "database", "words"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_asked_for_once(database_url: str, account: str, database: str | None, words: str) -> None:
    """A storm of wrong passwords locks accounts: one connection, and the process ends, long before its budget does."""
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
    """The ledger's history with two revisions after its last."""
    ini, right = project.make_history(folder, project.quick("left")), project.quick("right")
    project.revision_file(ini, right).write_text(right.source(project.head()))
    return ini


def test_several_heads_are_no_connection(database_url: str, tmp_path: Path) -> None:
    """The tree is looked at first: nobody connects, and the line names both heads."""
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


def test_several_heads_are_a_finding(database_url: str, tmp_path: Path) -> None:
    """The doctor fails and says what to do about them, and all the other checks are made."""
    code, output = migrate("doctor", url=database_url, ini=two_heads(tmp_path))
    assert (code, " checks, 1 failed" in output) == (1, True), output
    assert re.search(
        r"^fail  schema .*several heads \(left, right\); join them with 'alembic merge heads'", output, re.M
    )
