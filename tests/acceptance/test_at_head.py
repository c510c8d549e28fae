"""At head there is nothing to do, and next to nothing is done: one connection, one query, no lock, no words."""

import socket
import socketserver
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import BinaryIO
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.acceptance import evidence
from tests.acceptance.fleet import MARK, fleet, migrate, until_all_ready

pytestmark = pytest.mark.acceptance


class Wire(socketserver.ThreadingTCPServer):
    """Stands in front of a PostgreSQL server, passes everything on, and writes down what clients ask.

    Attributes:
        connections: how many clients came.
        statements: the text of whatever they had executed, in the order it came.
    """

    daemon_threads = True

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.target = target
        self.connections = 0
        self.statements: list[str] = []


class _Relay(socketserver.BaseRequestHandler):
    server: Wire

    def setup(self) -> None:
        self.parsed = ""

    def handle(self) -> None:
        self.server.connections += 1
        with socket.create_connection(self.server.target) as upstream:
            Thread(target=_pass_on, args=(upstream, self.request), daemon=True).start()
            with self.request.makefile("rb") as client:
                # the start-up message is the only one without a type
                upstream.sendall(_message(client, b""))
                while kind := client.read(1):
                    whole = _message(client, kind)
                    self._note(kind, whole[5:])
                    upstream.sendall(whole)

    def _note(self, kind: bytes, content: bytes) -> None:
        # Parse: the name of the statement, then its text. asyncpg without its cache parses twice and executes once.
        if kind == b"P":
            self.parsed = content.split(b"\0")[1].decode()
        elif kind == b"E":
            self.server.statements.append(self.parsed)
        elif kind == b"Q":
            self.server.statements.append(content.split(b"\0")[0].decode())


def _message(client: BinaryIO, kind: bytes) -> bytes:
    length = client.read(4)
    return kind + length + client.read(struct.unpack("!I", length)[0] - 4)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        # either side has gone, and the other is told by the handler's end
        return


@contextmanager
def wire(url: str) -> Iterator[tuple[Wire, str]]:
    """A `Wire` to the server of `url`, and the URL that leads through it, in plain text so that it can be read."""
    parts = urlsplit(url)
    with Wire((parts.hostname or "", parts.port or 5432)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        account = parts.netloc.rpartition("@")[0]
        through = parts._replace(netloc=f"{account}@127.0.0.1:{server.server_address[1]}", query="sslmode=disable")
        try:
            yield server, urlunsplit(through)
        finally:
            server.shutdown()


def test_the_wire_sees_everything(ledger_url: str) -> None:
    """A command that is known to ask several questions is counted: the numbers below are not zero by accident."""
    with wire(ledger_url) as (server, url):
        code, output = migrate("stamp", "head", url=url)
        assert code == 0, output
    assert server.connections == 2, "one for the lock and the work, one to verify"
    assert any("pg_try_advisory_lock" in statement for statement in server.statements)


def test_a_start_at_head_takes_one_connection_and_one_query(ledger_url: str) -> None:
    """The service's pool connects with the first request, so all that is counted is the package's."""
    with wire(ledger_url) as (server, url), fleet(1, url) as instances:
        until_all_ready(instances)
        assert len(server.statements) == 1, server.statements
        assert "alembic_version" in server.statements[0]
        assert server.connections == 1
        assert evidence.sessions(ledger_url) == []
        assert instances[0].get("/accounts/1").status_code == 404
        assert server.connections == 2


def test_a_start_without_the_package_takes_none(ledger_url: str) -> None:
    """The baseline: with MIGRATION_STRATEGY=off an instance starts and is ready without the database."""
    with wire(ledger_url) as (server, url), fleet(1, url, MIGRATION_STRATEGY="off") as instances:
        until_all_ready(instances)
        assert instances[0].health()["phase"] == "off"
        assert (server.connections, server.statements) == (0, [])


def test_nobody_takes_the_lock_at_head(ledger_url: str) -> None:
    """Three start at once: no advisory lock is asked for, nothing is written, and nobody says that it migrates."""
    before = evidence.history(ledger_url)
    with wire(ledger_url) as (server, url), fleet(3, url) as instances:
        until_all_ready(instances)
        assert (server.connections, len(server.statements)) == (3, 3)
        assert "advisory" not in "".join(server.statements)
        assert MARK not in "".join(instance.log() for instance in instances)
        assert all("Ready: the database is at head" in instance.log() for instance in instances)
        assert {instance.health()["phase"] for instance in instances} == {"ready"}
    assert evidence.history(ledger_url) == before
