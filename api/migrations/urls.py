"""Database URLs as platforms hand them out.

SQLAlchemy with asyncpg rejects `sslmode` in a URL and ConfigParser chokes on `%`; libpq-style URLs
are therefore given to `asyncpg.connect` itself, which understands them, and never to Alembic's ini.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import asyncpg

from .errors import ConfigurationError

EXAMPLE = "postgresql://user:password@host:5432/name"

_DIALECTS = {
    "postgres": "postgresql",
    "postgresql": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
    "sqlite": "sqlite",
}

# libpq and ORM parameters that are the client's business; asyncpg would send them to the server as settings,
# which answers "unrecognized configuration parameter".
_CLIENT_ONLY = frozenset(
    """
    channel_binding client_encoding connect_timeout connection_limit fallback_application_name gssdelegation gssencmode
    keepalives keepalives_count keepalives_idle keepalives_interval load_balance_hosts pgbouncer pool_timeout
    replication require_auth sslcompression sslsni tcp_user_timeout
    """.split()
)

_FILES = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})


@dataclass(frozen=True)
class DatabaseURL:
    """A database URL; its text form never shows the password, nor anything else of it but the dialect."""

    dialect: str
    dsn: str = field(repr=False)
    connect_timeout_seconds: float = 5.0

    @classmethod
    def parse(cls, text: str, *, name: str = "DATABASE_URL") -> DatabaseURL:
        """Read a URL; `name` is the setting to blame.

        Raises:
            ConfigurationError: it is not a URL, names no known database, or has a malformed host, port or query.
        """
        scheme, separator, _ = text.strip().partition("://")
        dialect = _DIALECTS.get(scheme.partition("+")[0].lower())
        if not separator or dialect is None:
            raise ConfigurationError(f"{name} is not a database URL; expected the form {EXAMPLE}")
        if dialect != "postgresql":
            return cls(dialect, text.strip())
        try:
            dsn, timeout_seconds = _libpq(text.strip())
        except ValueError as error:
            raise ConfigurationError(
                f"{name} is malformed ({error}); expected the form {EXAMPLE}, "
                "with special characters of the password percent-encoded (@ is %40, / is %2F, # is %23, ? is %3F)"
            ) from None
        return cls(dialect, dsn, timeout_seconds)

    def __str__(self) -> str:
        return f"{self.dialect}://…"

    @property
    def parameters(self) -> dict[str, str]:
        """What stands behind the question mark, without what is only the client's business."""
        return dict(parse_qsl(urlsplit(self.dsn).query))

    async def connect(self, **options: Any) -> asyncpg.Connection:
        """Open one connection; `options` are those of `asyncpg.connect` and win over the URL's.

        Of several hosts each has the whole `timeout` to answer, as in libpq.

        Raises: whatever asyncpg raises; the caller knows what it was doing and translates.
        """
        if self.dialect != "postgresql":
            raise ConfigurationError(f"a {self.dialect} URL cannot be opened by the PostgreSQL driver")
        options.setdefault("timeout", self.connect_timeout_seconds)
        *others, last = self._hosts()
        for dsn in others:
            with suppress(OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched):
                return await asyncpg.connect(dsn, **options)
        return await asyncpg.connect(last, **options)

    def _hosts(self) -> list[str]:
        # asyncpg's limit is one for all hosts: the first one, if it is frozen, would use it up every time
        parts = urlsplit(self.dsn)
        login, at, hosts = parts.netloc.rpartition("@")
        # with prefer-standby no host can be judged by itself
        if "," not in hosts or "prefer-standby" in parts.query:
            return [self.dsn]
        return [urlunsplit(parts._replace(netloc=f"{login}{at}{host}")) for host in hosts.split(",")]


def _libpq(text: str) -> tuple[str, float]:
    parts, query = _split(text)
    if parts.fragment:
        raise ValueError("it has a '#' in it")
    # the last @ ends the credentials: people do paste passwords unescaped
    credentials, _, hosts = parts.netloc.rpartition("@")
    for host in hosts.split(",") if hosts else ():
        _check_port(host)
    timeout_seconds = _seconds(query.get("connect_timeout", "5"))
    kept = {key: value for key, value in query.items() if key not in _CLIENT_ONLY}
    for name in _FILES & kept.keys():
        if not Path(kept[name]).expanduser().is_file():
            raise ValueError(f"{name} names a file that is not there")
    login = f"{_requote(credentials)}@" if credentials else ""
    # asyncpg would take a lone slash for an empty name, and that for the user's, instead of `dbname` in the query
    path = parts.path.removesuffix("/")
    return f"postgresql://{login}{hosts}{path}{'?' + urlencode(kept) if kept else ''}", timeout_seconds


def _split(text: str) -> tuple[SplitResult, dict[str, str]]:
    try:
        parts = urlsplit(text)
        return parts, dict(parse_qsl(parts.query, keep_blank_values=False, strict_parsing=bool(parts.query)))
    except ValueError:
        # the library's own words quote what it could not read, and that may be the password
        raise ValueError("its host or query cannot be read") from None


def _check_port(host: str) -> None:
    port = host.rpartition("]")[2].partition(":")[2]
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError("a port is not a number from 1 to 65535")


def _requote(credentials: str) -> str:
    user, colon, password = credentials.partition(":")
    return quote(unquote(user), safe="") + colon + quote(unquote(password), safe="")


def _seconds(text: str) -> float:
    if not text.isdecimal():
        raise ValueError("connect_timeout is not a whole number of seconds")
    return float(text) or 5.0
