"""Parses database URLs as platforms provide them, and connects to PostgreSQL.

SQLAlchemy with asyncpg rejects `sslmode` in a URL, and ConfigParser cannot read `%`. So a PostgreSQL URL goes to
`asyncpg.connect`, and never into Alembic's ini. The other drivers accept no URL: `sqlalchemy()` and `connect_args()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
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
ASYNCPG = "asyncpg"
_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary"}
"""The drivers of PostgreSQL on which revisions can run instead of asyncpg, and their packages."""
_DIALECTS = {name: name for name in _DRIVERS} | {"postgres": "postgresql", "mariadb": "mysql"}

# Parameters of libpq and ORMs for the client. asyncpg would send them to the server as settings, and the server would
# answer "unrecognized configuration parameter".
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
    """A database URL. Its text form shows the dialect only, never the password or another part."""

    dialect: str
    dsn: str = field(repr=False)
    connect_timeout_seconds: float = 5.0
    revision_driver: str = ASYNCPG
    """The driver on which revisions run on PostgreSQL: the one that the URL names, such as `postgresql+psycopg2`."""

    @classmethod
    def parse(cls, text: str, *, name: str = "DATABASE_URL") -> DatabaseURL:
        """Parse a URL. A `ConfigurationError` names the setting (`name`) and what is wrong, but quotes nothing."""
        scheme, separator, _ = text.strip().partition("://")
        dialect = _DIALECTS.get(scheme.partition("+")[0].lower())
        if not separator or dialect is None:
            forms = ", or ".join(_EXAMPLES.values())
            raise ConfigurationError(f"{name} is not a database URL. To fix: use the form {forms}")
        try:
            dsn, timeout_seconds = _READERS[dialect](text.strip())
        except ValueError as error:
            raise ConfigurationError(f"{name} is malformed: {error}. To fix: use the form {_FORMS[dialect]}") from None
        return cls(
            dialect, dsn, timeout_seconds, _revision_driver(scheme, name) if dialect == "postgresql" else ASYNCPG
        )

    def __str__(self) -> str:
        return f"{self.dialect}://…"

    @property
    def parameters(self) -> dict[str, str]:
        """The query parameters, without those for the client only."""
        return dict(parse_qsl(urlsplit(self.dsn).query))

    @property
    def database(self) -> str:
        """The database's name; for SQLite the path of its file; empty if PostgreSQL uses the user's name."""
        if self.dialect == "sqlite":
            return self.dsn.removeprefix("sqlite:///")
        return unquote(urlsplit(self.dsn).path[1:])

    def sqlalchemy(self) -> URL:
        """Return the URL for `create_async_engine`, to be used with `connect_args()`.

        For PostgreSQL it names the driver only, because `connect` passes the URL to asyncpg. Raises
        `ConfigurationError` if the driver is not installed.
        """
        name = f"{self.dialect}+{_driver_of(self.dialect)}"
        if self.dialect != "mysql":
            return URL.create(name, database=self.database if self.dialect == "sqlite" else None)
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
        """Return the driver's arguments beside the URL: the connect timeout, TLS, a socket, the password.

        Raises `ConfigurationError` if a certificate or its key cannot be read.
        """
        if self.dialect != "mysql":
            return {}
        parameters = self.parameters
        try:
            context = context_of(parameters)
        except OSError:  # also ssl.SSLError, whose text would quote the file
            raise ConfigurationError(
                "a certificate or key that the database URL names cannot be read. To fix: correct its file or path"
            ) from None
        # as bytes: asyncmy would encode text as Latin-1, which lacks most characters
        password = unquote(urlsplit(self.dsn).password or "").encode()
        optional = {"ssl": context, "unix_socket": parameters.get("unix_socket"), "password": password}
        present = {name: value for name, value in optional.items() if value}
        return {"connect_timeout": self.connect_timeout_seconds, **present}

    def open_for_revisions(self) -> Any:
        """Open a connection to PostgreSQL with `revision_driver`, psycopg or psycopg2; blocks.

        The driver passes the URL to libpq. The probes are those of `Limits.server_settings`, seen from this end.
        """
        probes = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}
        seconds = round(self.connect_timeout_seconds)
        return import_module(self.revision_driver).connect(self.dsn, connect_timeout=seconds, **probes)

    async def connect(self, **options: Any) -> asyncpg.Connection:
        """Open one connection to PostgreSQL; `options` are those of `asyncpg.connect` and win over the URL's.

        Of several hosts, each has the whole `timeout` to answer, as with libpq. The errors are asyncpg's.
        """
        if self.dialect != "postgresql":
            raise ConfigurationError(
                f"the PostgreSQL driver cannot open a {self.dialect} URL. To fix: connect with sqlalchemy()"
            )
        options.setdefault("timeout", self.connect_timeout_seconds)
        *others, last = self._hosts()
        for dsn in others:
            with suppress(OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched):
                return await asyncpg.connect(dsn, **options)
        return await asyncpg.connect(last, **options)

    def _hosts(self) -> list[str]:
        # asyncpg has one limit for all hosts, which a frozen first host would use up each time
        parts = urlsplit(self.dsn)
        login, at, hosts = parts.netloc.rpartition("@")
        # with prefer-standby the choice depends on all hosts
        if "," not in hosts or "prefer-standby" in parts.query:
            return [self.dsn]
        return [urlunsplit(parts._replace(netloc=f"{login}{at}{host}")) for host in hosts.split(",")]


def _revision_driver(scheme: str, name: str) -> str:
    driver = (scheme.partition("+")[2] or ASYNCPG).removesuffix("_async").lower()
    if driver == ASYNCPG:
        return driver
    if driver not in _PACKAGES:
        raise ConfigurationError(
            f"{name} names the driver {driver!r}, which is not supported. To fix: use postgresql://, or "
            "postgresql+psycopg:// or postgresql+psycopg2:// for revisions that need these drivers"
        )
    if find_spec(driver) is None:
        raise ConfigurationError(
            f"{name} names the driver {driver}, which is not installed. To fix: pip install '{_PACKAGES[driver]}' (in "
            f"this project: the extra [{driver}]), or use postgresql:// for asyncpg"
        )
    return driver


def _driver_of(dialect: str) -> str:
    driver = _DRIVERS[dialect]
    if find_spec(driver) is None:
        raise ConfigurationError(
            f"a {dialect} URL needs the package {driver}, which is not installed. To fix: pip install {driver} "
            f"(in this project: the extra [{dialect}])"
        )
    return driver


def check_redis(text: str) -> None:
    """Check a Redis URL without the optional client. Raises a `ValueError` that does not quote it."""
    try:
        parts = urlsplit(text.strip())
        path = parts.path.strip("/")
        by_host = bool(parts.hostname) and parts.port != 0 and (path.isdecimal() or not path)
        valid = {"unix": bool(path), "redis": by_host, "rediss": by_host}[parts.scheme] and not parts.fragment
    except (ValueError, KeyError):
        valid = False
    if not valid:
        raise ValueError(
            f"is not the URL of a Redis. To fix: use the form {REDIS_EXAMPLE} (rediss:// for TLS, or "
            "unix:///path/of/socket), with special characters of the password percent-encoded"
        )


def _libpq(text: str) -> tuple[str, float]:
    parts, query = _split(text)
    # the last @ ends the credentials: people paste passwords without encoding them
    credentials, _, hosts = parts.netloc.rpartition("@")
    for host in hosts.split(",") if hosts else ():
        _check_port(host)
    kept = {key: value for key, value in query.items() if key not in _CLIENT_ONLY}
    for name in _FILES & kept.keys():
        if not Path(kept[name]).expanduser().is_file():
            raise ValueError(f"{name} names a file that does not exist")
    # asyncpg would read a lone slash as an empty name, and use the user's name instead of `dbname` in the query
    return _joined("postgresql", credentials, hosts, parts.path.removesuffix("/"), kept), _timeout_seconds(query)


def _mysql(text: str) -> tuple[str, float]:
    parts, query = _split(text)
    credentials, _, host = parts.netloc.rpartition("@")
    if "," in host:
        raise ValueError("it names several hosts, but the driver accepts one")
    _check_port(host)
    name = unquote(parts.path[1:])
    if not name:
        raise ValueError("it names no database")
    socket = query.get("unix_socket") or query.get("socket")
    # the other parameters are for other clients, such as pools and time zones
    kept = tls_of(query) | ({"unix_socket": socket} if socket else {})
    return _joined("mysql", credentials, host, f"/{quote(name, safe='')}", kept), _timeout_seconds(query)


def _sqlite(text: str) -> tuple[str, float]:
    place, _, query = text.partition("://")[2].partition("?")
    path = place.removeprefix("/")
    if path == "" or ":memory:" in path or "mode=memory" in query:
        raise ValueError("it names a database in memory, but each connection would have its own")
    if not place.startswith("/"):
        raise ValueError("a relative path needs three slashes")
    if query or path.startswith("file:"):
        raise ValueError("it has parameters, which are not supported")
    return f"sqlite:///{path}", 5.0


_READERS = {"postgresql": _libpq, "mysql": _mysql, "sqlite": _sqlite}


def _split(text: str) -> tuple[SplitResult, dict[str, str]]:
    try:
        parts = urlsplit(text)
        query = dict(parse_qsl(parts.query, keep_blank_values=False, strict_parsing=bool(parts.query)))
    except ValueError:
        # the library's error quotes what it could not parse, which may be the password
        raise ValueError("its host or query cannot be parsed") from None
    if parts.fragment:
        raise ValueError("it contains '#'")
    return parts, query


def _joined(scheme: str, credentials: str, hosts: str, path: str, query: Mapping[str, str]) -> str:
    login = ":".join(quote(unquote(part), safe="") for part in credentials.split(":", 1))
    return f"{scheme}://{login and login + '@'}{hosts}{path}{'?' + urlencode(query) if query else ''}"


def _check_port(host: str) -> None:
    port = host.rpartition("]")[2].partition(":")[2]
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError("a port is not a number from 1 to 65535")


def _timeout_seconds(query: Mapping[str, str]) -> float:
    text = query.get("connect_timeout", "5")
    if not text.isdecimal():
        raise ValueError("connect_timeout is not a whole number of seconds")
    return float(text) or 5.0
