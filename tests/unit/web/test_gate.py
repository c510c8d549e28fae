"""The ASGI gate in front of the service refuses requests but those for open paths until it is opened."""

import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from api.migrations.core.status import Phase, Status
from api.migrations.settings import OPEN_PATHS
from api.migrations.web.gate import RETRY_AFTER_SECONDS, Gate

SECRET = "revision b failed: geh3im"


class App:
    """An application that answers 200 and records its requests."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of ASGI."""
        self.scopes.append(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"served"})


class Client:
    """The server's side of ASGI in front of a gate."""

    def __init__(self) -> None:
        self.app = App()
        self.gate = Gate(self.app, lambda: Status(Phase.WAITING, message=SECRET), OPEN_PATHS)

    async def ask(self, path: str, kind: str = "http", **extra: Any) -> list[Message]:
        """Send one scope through the gate and return the answer."""
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": f"{kind}.connect" if kind == "websocket" else "http.request"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": kind,
            **({} if kind == "lifespan" else {"path": path, "headers": [], "method": "GET"}),
            **extra,
        }
        await self.gate(scope, receive, send)
        return sent


@pytest.fixture
def client() -> Client:
    """Return a client of a closed gate."""
    return Client()


async def test_a_closed_gate_answers_503_as_a_problem(client: Client) -> None:
    """A closed gate answers 503 with problem JSON, an integer Retry-After and no-store."""
    start, body = await client.ask("/accounts")
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert start["status"] == 503
    assert headers["content-type"] == "application/problem+json"
    assert (headers["retry-after"], headers["cache-control"]) == (str(RETRY_AFTER_SECONDS), "no-store")
    problem = json.loads(body["body"])
    assert {key: problem[key] for key in ("type", "status", "instance", "phase")} == {
        "type": "about:blank",
        "status": 503,
        "instance": "/accounts",
        "phase": "waiting",
    }
    assert problem["title"]
    assert client.app.scopes == []


async def test_the_answer_of_a_closed_gate_omits_the_message(client: Client) -> None:
    """The answer of a closed gate has the phase and not the status message, because anybody may request it."""
    _, body = await client.ask("/accounts")
    assert SECRET.encode() not in body["body"]
    assert b"waiting" in body["body"]


@pytest.mark.parametrize("path", [*OPEN_PATHS, "/health/live/", "/metrics///"])
async def test_open_paths_pass_a_closed_gate(client: Client, path: str) -> None:
    """Requests for open paths pass a closed gate, also with trailing slashes."""
    start, _ = await client.ask(path)
    assert start["status"] == 200


@pytest.mark.parametrize(
    "path", ["/", "", "/health", "/health/livelier", "/x/health/live", "/health/live/x", "/HEALTH/LIVE"]
)
async def test_a_path_similar_to_an_open_one_does_not_pass(client: Client, path: str) -> None:
    """A path that only begins, ends or is spelt like an open one does not pass a closed gate."""
    start, _ = await client.ask(path)
    assert start["status"] == 503


@pytest.mark.parametrize(("path", "status"), [("/api/health/live", 200), ("/api/accounts", 503), ("/api", 503)])
async def test_the_path_of_a_mounted_application_counts_without_its_root(
    client: Client, path: str, status: int
) -> None:
    """The open paths of an application that is mounted at `root_path` are compared without it."""
    start, _ = await client.ask(path, root_path="/api")
    assert start["status"] == status


async def test_a_closed_gate_closes_a_websocket_with_code_1012(client: Client) -> None:
    """A closed gate closes a websocket with code 1012, which means that the client may return."""
    (message,) = await client.ask("/ws", "websocket")
    assert (message["type"], message["code"]) == ("websocket.close", 1012)
    assert SECRET not in message["reason"]
    assert client.app.scopes == []


async def test_the_lifespan_passes_a_closed_gate(client: Client) -> None:
    """The lifespan passes a closed gate, because it opens the gate."""
    await client.ask("", "lifespan", state={})
    assert [scope["type"] for scope in client.app.scopes] == ["lifespan"]


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_an_open_gate_lets_everything_pass(client: Client, kind: str) -> None:
    """An open gate lets every request pass and does not close again."""
    client.gate.open()
    await client.ask("/accounts", kind)
    await client.ask("/accounts", kind)
    assert [scope["path"] for scope in client.app.scopes] == ["/accounts", "/accounts"]


async def test_the_state_of_a_late_lifespan_reaches_requests(client: Client) -> None:
    """A request behind an open gate has the state of the late lifespan beside the server's own."""
    client.gate.late_state = {"pool": "late"}
    client.gate.open()
    await client.ask("/a", state={"early": 1})
    await client.ask("/b")
    assert [scope["state"] for scope in client.app.scopes] == [{"early": 1, "pool": "late"}, {"pool": "late"}]


async def test_a_request_through_a_closed_gate_has_no_late_state(client: Client) -> None:
    """A probe through a closed gate has only the server's own state."""
    client.gate.late_state = {"pool": "late"}
    await client.ask("/health/live", state={})
    assert client.app.scopes[0]["state"] == {}
