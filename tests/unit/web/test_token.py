"""With MIGRATION_HEALTH_TOKEN `/health/migrations` and `/metrics` answer only requests that have the token."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from api.migrations.core.status import Phase, Tracker
from api.migrations.errors import ConfigurationError
from api.migrations.parts import settings_of_failed_start
from api.migrations.settings import MigrationSettings
from api.migrations.web.install import check_token, install

TOKEN = "geh3im-0123456789"
CLOSED = ("/health/migrations", "/metrics")


def settings(**values: Any) -> MigrationSettings:
    """Return settings without an environment."""
    return MigrationSettings.load(_env_file=None, **values)


async def get(path: str, authorization: str | None, used: MigrationSettings, *own: Route) -> httpx.Response:
    """Send a request to an application that waits for its schema, with routes of its `own`."""
    app = Starlette(routes=[*own])
    install(app, Tracker(phase=Phase.WAITING, message="pid 7 (psql, user anna) blocks accounts"), used)
    headers = {} if authorization is None else {b"Authorization": authorization.encode("latin-1")}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.get(path, headers=headers)


def basic(user: str, password: str) -> str:
    """Return the header of a browser."""
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("given", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic("", TOKEN), basic("anna", TOKEN)])
async def test_a_request_with_the_token_is_answered(path: str, given: str) -> None:
    """The token is accepted as a bearer token, and as the password of any user."""
    answer = await get(path, given, settings(health_token=TOKEN))
    assert answer.status_code == (503 if path == "/health/migrations" else 200)
    assert "waiting" in answer.text


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Token {TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        basic(TOKEN, ""),
        basic("anna", "wrong"),
        "Basic ::::",
        "Basic " + b64encode(TOKEN.encode()).decode(),
        "Bearer \xfc",
    ],
)
async def test_another_request_gets_401(path: str, given: str | None) -> None:
    """A request without the token gets 401 with both schemes, and nothing else."""
    answer = await get(path, given, settings(health_token=TOKEN))
    assert answer.status_code == 401
    assert answer.headers.get_list("WWW-Authenticate") == ['Basic realm="migrations"', 'Bearer realm="migrations"']
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json() == {"type": "about:blank", "title": "Unauthorized", "status": 401}


async def test_the_probes_need_no_token_and_show_no_message() -> None:
    """The probes answer without the token; the readiness probe shows its message only with it."""
    used = settings(health_token=TOKEN)
    assert (await get("/health/live", None, used)).status_code == 200
    ready = await get("/health/ready", None, used)
    assert (ready.status_code, ready.json()) == (503, {"status": "fail", "phase": "waiting"})
    assert "anna" in (await get("/health/ready", f"Bearer {TOKEN}", used)).text
    assert "anna" in (await get("/health/ready", None, settings())).text


async def test_without_a_token_everything_is_answered() -> None:
    """Without a token in the settings every request is answered, whatever its header is."""
    for path in CLOSED:
        assert (await get(path, "Bearer wrong", settings())).status_code in {200, 503}


async def test_an_application_s_own_routes_need_no_token() -> None:
    """The application's own routes, also those under /health and its own /metrics, are answered without the token."""

    async def own(request: Request) -> Response:
        return PlainTextResponse("mine")

    used = settings(health_token=TOKEN, open_paths=["/health/own", "/metrics"])
    for path in ("/health/own", "/metrics"):
        answer = await get(path, None, used, Route("/health/own", own), Route("/metrics", own))
        assert (answer.status_code, answer.text) == (200, "mine")


async def test_the_token_may_be_in_a_file(tmp_path: Path) -> None:
    """The file's content is the token, without the line break at its end."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert (await get("/metrics", f"Bearer {TOKEN}", settings(health_token_file=file))).status_code == 200
    assert (await get("/metrics", None, settings(health_token_file=file))).status_code == 401


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write two files without a usable token into the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("geh3im\n")
    Path("empty").write_text("\n")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"health_token": "geh3im-01234567"}, "MIGRATION_HEALTH_TOKEN is not a token of at least 16 ASCII characters"),
        ({"health_token": "geh3im 0123456789"}, "without spaces. To fix: "),
        ({"health_token": "geh3im-ü-0123456789"}, "ASCII"),
        ({"health_token_file": "short"}, "MIGRATION_HEALTH_TOKEN_FILE (short) is not a token"),
        ({"health_token_file": "empty"}, "which is empty. To fix: write a random token into it"),
        ({"health_token_file": "nowhere"}, "MIGRATION_HEALTH_TOKEN_FILE names nowhere, which cannot be read"),
        ({"health_token": TOKEN, "health_token_file": "short"}, "are both set. To fix: unset one of them"),
    ],
)
async def test_a_token_that_cannot_be_used_closes_the_endpoints(values: dict[str, str], message: str) -> None:
    """The start fails with a message without the token; meanwhile no request is answered, not even with that token."""
    used = settings(**values)
    with pytest.raises(ConfigurationError) as refused:
        check_token(used)
    assert message in str(refused.value)
    assert "geh3im" not in str(refused.value) + repr(used)
    for given in (None, "Bearer geh3im", "Bearer ", f"Bearer {values.get('health_token', '')}"):
        assert (await get("/metrics", given, used)).status_code == 401


def test_another_invalid_setting_does_not_open_the_endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two other settings are invalid: the failed start still has the token, from the environment or `.env`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIGRATION_STARTUP_MODE", "open")
    monkeypatch.setenv("MIGRATION_INSTANCE", " ")
    Path(".env").write_text(f"MIGRATION_HEALTH_TOKEN={TOKEN}\n")
    token = settings_of_failed_start().health_token
    assert token is not None
    assert token.get_secret_value() == TOKEN


def test_the_token_is_in_no_error_of_the_settings() -> None:
    """A token of the wrong type is reported without its value."""
    with pytest.raises(ConfigurationError, match="MIGRATION_HEALTH_TOKEN is invalid") as refused:
        settings(health_token=["geh3im"])
    assert "geh3im" not in str(refused.value)
