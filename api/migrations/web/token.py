"""The token of `/health/migrations` and `/metrics`: MIGRATION_HEALTH_TOKEN, or the content of a file.

A program sends it as `Authorization: Bearer <token>`. A browser asks a person for it, as the password of any user name.
Imported only if there is a token.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets

from starlette.requests import Request
from starlette.responses import Response

from ..errors import ConfigurationError
from ..settings import MigrationSettings
from ..settings.database_urls import content_of
from .gate import NO_STORE

SHORTEST = 16
"""Characters of a token; a random one of 16 letters and digits has 95 bits."""
_HOW = "set it to the output of: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def token_of(settings: MigrationSettings) -> str | None:
    """Return the token, None if none is set.

    Raises `ConfigurationError` if its file cannot be read, or if it is too short or cannot be sent in a header.
    """
    token, file, name = settings.health_token, settings.health_token_file, "MIGRATION_HEALTH_TOKEN"
    if token is not None and file is not None:
        raise ConfigurationError(f"{name} and {name}_FILE are both set. To fix: unset one of them")
    if file is not None:
        name, text = f"{name}_FILE ({file})", content_of(f"{name}_FILE", file, "a random token")
    elif token is not None:
        text = token.get_secret_value().strip()
    else:
        return None
    if len(text) < SHORTEST or not all("!" <= character <= "~" for character in text):
        raise ConfigurationError(
            f"{name} is not a token of at least {SHORTEST} ASCII characters without spaces. To fix: {_HOW}"
        )
    return text


class TokenGuard:
    """Refuses requests without the token."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    @classmethod
    def of(cls, settings: MigrationSettings) -> TokenGuard:
        """Return the guard for the token of the settings; one that refuses all requests if the token is not usable."""
        try:
            token = token_of(settings)
        except ConfigurationError:
            # the start fails with this error; meanwhile the endpoints must not be open
            token = None
        return cls(token or secrets.token_urlsafe())

    def __call__(self, request: Request) -> Response | None:
        """Return status 401 for a request without the token; None with it."""
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        given = credentials.strip().encode()
        if scheme.lower() == "basic":
            given = _password(given)
        elif scheme.lower() != "bearer":
            given = b""
        return None if hmac.compare_digest(given, self._token) else _unauthorized()


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _unauthorized() -> Response:
    body = {"type": "about:blank", "title": "Unauthorized", "status": 401}
    answer = Response(json.dumps(body), 401, NO_STORE, "application/problem+json")
    # one header each: a browser shows a dialog for Basic, whatever the other one is
    for scheme in ("Basic", "Bearer"):
        answer.headers.append("WWW-Authenticate", f'{scheme} realm="migrations"')
    return answer
