"""Database URLs as platforms hand them out.

SQLAlchemy with asyncpg rejects `sslmode` in a URL and ConfigParser chokes on `%`; libpq-style URLs
are therefore given to `asyncpg.connect` itself, which understands them, and never to Alembic's ini.
The drivers of MySQL, MariaDB and SQLite take no URL: theirs is taken apart here, for `sqlalchemy()` and
`connect_args()`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import asyncpg
from sqlalchemy import URL

from ..errors import ConfigurationError
from .mysql import context_of, tls_of

EXAMPLE = "postgresql://user:password@host:5432/name"
REDIS_EXAMPLE = "redis://user:password@host:6379/0"

_ENCODED = "with special characters of the password percent-encoded (@ is %40, / is %2F, # is %23, ? is %3F)"
_EXAMPLES = {
    "postgresql": EXAMPLE,
    "mysql": "mysql://user:password@host:3306/name",
    "sqlite": "sqlite:////absolute/path.db or sqlite:///relative/path.db",
}
_FORMS = _EXAMPLES | {name: f"{_EXAMPLES[name]}, {_ENCODED}" for name in ("postgresql", "mysql")}

_DRIVERS = {"postgresql": "asyncpg", "mysql": "asyncmy", "sqlite": "aiosqlite"}

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
            forms = ", or ".join(_EXAMPLES.values())
            raise ConfigurationError(f"{name} is not a database URL; expected the form {forms}")
        try:
            dsn, timeout_seconds = _READERS[dialect](text.strip())
        except ValueError as error:
            raise ConfigurationError(f"{name} is malformed ({error}); expected the form {_FORMS[dialect]}") from None
        return cls(dialect, dsn, timeout_seconds)

    def __str__(self) -> str:
        return f"{self.dialect}://…"

    @property
    def parameters(self) -> dict[str, str]:
        """What stands behind the question mark, without what is only the client's business."""
        return dict(parse_qsl(urlsplit(self.dsn).query))

    @property
    def database(self) -> str:
        """The database's name; for SQLite the path of its file; empty where PostgreSQL takes the user's name."""
        if self.dialect == "sqlite":
            return self.dsn.removeprefix("sqlite:///")
        return unquote(urlsplit(self.dsn).path[1:])

    def sqlalchemy(self) -> URL:
        """The URL for `create_async_engine`, to be used with `connect_args()`.

        For PostgreSQL it names the driver only: asyncpg gets the URL itself, through `connect`.

        Raises:
            ConfigurationError: the driver is not installed.
        """
        name = f"{self.dialect}+{_driver_of(self.dialect)}"
        if self.dialect == "postgresql":
            return URL.create(name)
        if self.dialect == "sqlite":
            return URL.create(name, database=self.database)
        parts = urlsplit(self.dsn)
        return URL.create(
            name,
            username=unquote(parts.username or "") or None,
            password=unquote(parts.password or "") or None,
            host=parts.hostname,
            port=parts.port,
            database=self.database,
            query={"charset": "utf8mb4"},
        )

    def connect_args(self) -> dict[str, Any]:
        """What the driver has to be told beside the URL: the time to connect in, TLS, a socket.

        Raises:
            ConfigurationError: a certificate or its key cannot be read.
        """
        if self.dialect != "mysql":
            return {}
        parameters = self.parameters
        try:
            context = context_of(parameters)
        except OSError:  # ssl.SSLError is one; its words would quote the file
            raise ConfigurationError("a certificate or key that the database URL names cannot be read") from None
        # asyncmy would encode a password as Latin-1, where there may be no such character
        password = unquote(urlsplit(self.dsn).password or "").encode()
        given = {"ssl": context, "unix_socket": parameters.get("unix_socket"), "password": password}
        kept = {name: value for name, value in given.items() if value}
        return {"connect_timeout": self.connect_timeout_seconds, **kept}

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


def _driver_of(dialect: str) -> str:
    driver = _DRIVERS[dialect]
    if find_spec(driver) is None:
        raise ConfigurationError(
            f"a {dialect} URL needs the package {driver}, which is not installed; "
            f"pip install {driver} (in this project: the extra [{dialect}])"
        )
    return driver


def check_redis(text: str) -> None:
    """Make sure that this can be the URL of a Redis; the client itself is optional, and may not be there to ask.

    Raises:
        ValueError: it cannot, said without quoting it.
    """
    try:
        parts = urlsplit(text.strip())
        path = parts.path.strip("/")
        by_host = bool(parts.hostname) and parts.port != 0 and (path.isdecimal() or not path)
        good = {"unix": bool(path), "redis": by_host, "rediss": by_host}[parts.scheme] and not parts.fragment
    except (ValueError, KeyError):
        good = False
    if not good:
        raise ValueError(
            f"is not the URL of a Redis; expected {REDIS_EXAMPLE} (or rediss:// with TLS, or unix:///path/of/socket), "
            "with special characters of the password percent-encoded"
        )


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


def _mysql(text: str) -> tuple[str, float]:
    parts, query = _split(text)
    if parts.fragment:
        raise ValueError("it has a '#' in it")
    credentials, _, host = parts.netloc.rpartition("@")
    if "," in host:
        raise ValueError("it names several hosts, of which the driver takes one")
    _check_port(host)
    name = unquote(parts.path[1:])
    if not name:
        raise ValueError("it names no database")
    timeout_seconds = _seconds(query.get("connect_timeout", "5"))
    socket = query.get("unix_socket") or query.get("socket")
    # whatever else there is, pools and time zones of other clients, is no business of the server's
    kept = tls_of(query) | ({"unix_socket": socket} if socket else {})
    login = f"{_requote(credentials)}@" if credentials else ""
    return f"mysql://{login}{host}/{quote(name, safe='')}{'?' + urlencode(kept) if kept else ''}", timeout_seconds


def _sqlite(text: str) -> tuple[str, float]:
    place, _, query = text.partition("://")[2].partition("?")
    path = place.removeprefix("/")
    if path == "" or ":memory:" in path or "mode=memory" in query:
        raise ValueError("a database in memory: each connection would have a database of its own")
    if not place.startswith("/"):
        raise ValueError("a relative path takes three slashes")
    if query or path.startswith("file:"):
        raise ValueError("it has parameters, which are not taken here")
    return f"sqlite:///{path}", 5.0


_READERS = {"postgresql": _libpq, "mysql": _mysql, "sqlite": _sqlite}


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
