"""An HTTP server that implements the Lease API of Kubernetes, with faults that a test switches on.

It runs in a thread of the test. Any number of processes reach it through the kubeconfig file that it writes:

    with lease_api(tmp_path) as api:
        environment["KUBECONFIG"] = str(api.kubeconfig)
        api.fault = Fault(status=500)
        api.fault = None
"""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from devtools.ports import HOST, free_port
from tests.support.lease_store import Key, LeaseStore, Object, Refusal, decode

PREFIX = "/apis/coordination.k8s.io/v1/namespaces/"
VERBS = {"GET": "get", "POST": "create", "PUT": "update", "DELETE": "delete", "PATCH": "patch"}
NAMESPACE = "ledger-tests"

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: test
clusters: [{{name: test, cluster: {{server: "http://{host}:{port}", insecure-skip-tls-verify: true}}}}]
users: [{{name: test, user: {{tokenFile: "{token_file}"}}}}]
contexts: [{{name: test, context: {{cluster: test, user: test, namespace: {namespace}}}}}]
"""


@dataclass
class Fault:
    """What happens to requests of these verbs, in place of, before or after their work.

    Attributes:
        status: the answer, without any work.
        delay_seconds: the wait before the request, or until the fault is switched off.
        cut: the connection is closed before the work, after it, or in the middle of the answer.
        verbs: the affected verbs; empty means every verb.
        times: how many requests are affected; None means all.
    """

    status: int | None = None
    delay_seconds: float = 0
    cut: Literal["before", "after", "halfway"] | None = None
    verbs: frozenset[str] = frozenset()
    times: int | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def meets(self, verb: str) -> bool:
        """Return whether this request is affected, and count it."""
        if self.times == 0 or (self.verbs and verb not in self.verbs):
            return False
        self.times = None if self.times is None else self.times - 1
        return True


NO_FAULT = Fault(times=0)


@dataclass(frozen=True)
class Request:
    """A request that arrived and the status of its answer; 0 if the connection was cut."""

    verb: str
    key: Key
    status: int


class LeaseApi:
    """The server: its store, the requests so far, the verbs that it permits, and the fault that is switched on."""

    def __init__(self, folder: Path) -> None:
        self.store = LeaseStore({"default", NAMESPACE})
        self.granted: dict[str, frozenset[str]] = {"t0ken": frozenset(VERBS.values())}
        """The verbs that the bearer of each token may use."""
        self.requests: list[Request] = []
        self.port = free_port()
        self.kubeconfig, self.token_file = folder / "kubeconfig", folder / "token"
        self.token_file.write_text("t0ken\n")
        values = {"host": HOST, "port": self.port, "token_file": self.token_file, "namespace": NAMESPACE}
        self.kubeconfig.write_text(KUBECONFIG.format(**values))
        self._fault = NO_FAULT
        self._server: ThreadingHTTPServer | None = None

    @property
    def fault(self) -> Fault:
        """The fault that is switched on; None switches it off."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._fault.over.set()
        self._fault = fault or NO_FAULT

    @property
    def verbs(self) -> set[str]:
        """The verbs of all requests so far."""
        return {request.verb for request in self.requests}

    def count(self, *statuses: int) -> int:
        """Return how many requests were answered with one of these statuses, or with any."""
        return sum(not statuses or request.status in statuses for request in self.requests)

    def spec(self, name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
        """Return the spec of a Lease; empty if it does not exist."""
        try:
            spec: dict[str, Any] = self.store.get((namespace, name))["spec"]
        except Refusal:
            return {}
        return spec

    def holder(self, name: str, namespace: str = NAMESPACE) -> str:
        """Return the holder of a Lease; empty if it has none."""
        return self.spec(name, namespace).get("holderIdentity") or ""

    def start(self, certificate: tuple[Path, Path] | None = None, *, refusing: int | None = None) -> None:
        """Listen, on the same port each time; with TLS if there is a certificate and its key.

        Everything, `/readyz` too, is answered with the status `refusing` until the fault is switched off: a real API
        server does that for a moment after it listens, until its authorizer has read the roles.
        """
        self.fault = None if refusing is None else Fault(status=refusing)
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = _Server((HOST, self.port), handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="lease api", daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and close open ones at their next request."""
        self.fault = Fault(cut="before")
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@contextmanager
def lease_api(folder: Path) -> Iterator[LeaseApi]:
    """Run a server with its kubeconfig in `folder`."""
    api = LeaseApi(folder)
    api.start()
    try:
        yield api
    finally:
        api.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # the thread of an open connection does not end
    block_on_close = False
    # for a fleet that starts at once
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api: LeaseApi

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def handle(self) -> None:
        """Serve until the client disconnects, in whatever way."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def do_GET(self) -> None:
        """Answer one request."""
        self._serve()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815 - the names http.server asks for

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        verb, api = VERBS[self.command], self.api
        path = self.path.partition("?")[0].removeprefix(PREFIX).split("/")
        key = (path[0], path[2] if len(path) > 2 else "")
        fault = api.fault if api.fault.meets(verb) else NO_FAULT
        fault.over.wait(fault.delay_seconds)
        if fault.cut == "before":
            return self._cut(verb, key)
        try:
            if fault.status is not None:
                raise Refusal(fault.status, "a fault that the test switched on")
            code, answer = self._answer(verb, key, raw)
        except Refusal as refusal:
            code, answer = refusal.code, refusal.status
        if fault.cut == "after":
            return self._cut(verb, key)
        api.requests.append(Request(verb, key, code))
        return self._send(code, answer, half=fault.cut == "halfway")

    def _answer(self, verb: str, key: Key, raw: bytes) -> tuple[int, Object]:
        if self.path == "/readyz":
            return 200, {"status": "ok"}
        if not self.path.startswith(f"{PREFIX}{key[0]}/leases"):
            raise Refusal(404, "the server could not find the requested resource")
        self._authorize(verb, key)
        # a dry run is validated like a real request, on a copy
        store = self.api.store.copy() if self.path.endswith("?dryRun=All") else self.api.store
        if verb == "get":
            return 200, store.get(key)
        if verb == "delete":
            return 200, store.delete(key)
        if verb == "patch":
            raise Refusal(405, "the server does not allow this method on the requested resource")
        body = decode(key, raw)
        if verb == "create":
            return 201, store.create((key[0], body["metadata"].get("name", "")), body)
        return 200, store.replace(key, body)

    def _authorize(self, verb: str, key: Key) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in self.api.granted:
            raise Refusal(401, "Unauthorized")
        if verb not in self.api.granted[token]:
            who = f'User "system:serviceaccount:{key[0]}:ledger" cannot {verb} resource "leases"'
            where = f'in API group "coordination.k8s.io" in the namespace "{key[0]}"'
            raise Refusal(403, f'leases.coordination.k8s.io "{key[1]}" is forbidden: {who} {where}')

    def _cut(self, verb: str, key: Key) -> None:
        self.api.requests.append(Request(verb, key, 0))
        self.close_connection = True

    def _send(self, code: int, answer: Object, *, half: bool) -> None:
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if code == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if half else content)
        self.close_connection = self.close_connection or half
