"""A proxy to PostgreSQL that records statements, keeps clients waiting, and drops the answer to a COMMIT."""

import socket
import socketserver
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import BinaryIO
from urllib.parse import urlsplit, urlunsplit


class Wire(socketserver.ThreadingTCPServer):
    """Stands in front of a PostgreSQL server, passes everything on, and records what clients execute.

    Attributes:
        connections: how many clients have connected.
        statements: the text of each executed statement, in order of arrival.
        shut: every new client is disconnected.
        answers: every new client waits until this is set.
        lose_commit_after: words of a statement; the next COMMIT after it reaches the server, its answer is dropped, and
            the connection is cut.
        lost: how many answers were dropped.
    """

    daemon_threads = True

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.target = target
        self.connections = 0
        self.statements: list[str] = []
        self.shut = False
        self.answers = Event()
        self.answers.set()
        self.lose_commit_after: str | None = None
        self.lost = 0
        self._kept_waiting: list[socket.socket] = []

    def send_away(self) -> None:
        """Disconnect every client that is kept waiting."""
        for client in self._kept_waiting:
            client.shutdown(socket.SHUT_RDWR)

    def admits(self, client: socket.socket) -> bool:
        """Return whether a new client is passed on, now or after a wait."""
        self.connections += 1
        if self.shut:
            return False
        self._kept_waiting.append(client)
        self.answers.wait()
        self._kept_waiting.remove(client)
        return not self.shut


class _Relay(socketserver.BaseRequestHandler):
    server: Wire

    def setup(self) -> None:
        self.parsed = ""
        self.doomed = self.swallows = False

    def handle(self) -> None:
        if not self.server.admits(self.request):
            return
        with socket.create_connection(self.server.target) as upstream:
            for end in (upstream, self.request):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Thread(target=self._pass_on, args=(upstream,), daemon=True).start()
            with self.request.makefile("rb") as client:
                # the start-up message is the only one without a type
                upstream.sendall(_message(client, b""))
                while kind := client.read(1):
                    whole = _message(client, kind)
                    self._note(kind, whole[5:])
                    upstream.sendall(whole)
            _end(upstream)

    def _note(self, kind: bytes, content: bytes) -> None:
        # Parse: the name of the statement, then its text. asyncpg without its cache parses twice and executes once.
        if kind == b"P":
            self.parsed = content.split(b"\0")[1].decode()
        elif kind == b"E":
            self._execute(self.parsed)
        elif kind == b"Q":
            self._execute(content.split(b"\0")[0].decode())

    def _execute(self, statement: str) -> None:
        self.server.statements.append(statement)
        words = self.server.lose_commit_after
        if words is not None and words in statement:
            self.server.lose_commit_after, self.doomed = None, True
        elif self.doomed and statement.startswith("COMMIT"):
            self.swallows = True

    def _pass_on(self, upstream: socket.socket) -> None:
        # an error means that one side has disconnected
        with suppress(OSError):
            while (data := upstream.recv(65536)) and not self.swallows:
                self.request.sendall(data)
            # an answer to COMMIT means that it is committed
            self.server.lost += bool(data)
        _end(self.request)


def _message(client: BinaryIO, kind: bytes) -> bytes:
    length = client.read(4)
    if len(length) < 4:
        return b""  # the client has disconnected
    return kind + length + client.read(struct.unpack("!I", length)[0] - 4)


def _end(connection: socket.socket) -> None:
    # a close is not enough: the other thread still reads from the connection
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def wire(url: str) -> Iterator[tuple[Wire, str]]:
    """Yield a `Wire` to the server of `url`, and the URL through it, without TLS so that it can be read."""
    parts = urlsplit(url)
    with Wire((parts.hostname or "", parts.port or 5432)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        account = parts.netloc.rpartition("@")[0]
        through = parts._replace(netloc=f"{account}@127.0.0.1:{server.server_address[1]}", query="sslmode=disable")
        try:
            yield server, urlunsplit(through)
        finally:
            server.answers.set()
            server.shutdown()
