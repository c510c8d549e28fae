"""Parses database URLs as platforms provide them, and connects to PostgreSQL.

SQLAlchemy with asyncpg rejects `sslmode` in a URL, and ConfigParser cannot read `%`. So a PostgreSQL URL goes to
`asyncpg.connect`, and never into Alembic's ini. The other drivers accept no URL: `sqlalchemy()` and `connect_args()`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

import asyncpg
from sqlalchemy import URL

from ..errors import ConfigurationError
from ..runtime.thread import wait_on_loop
from . import mysql, postgres
from .parts import encoded
from .password import FetchPassword, fetched
from .postgres import ASYNCPG

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
_DIALECTS = {name: name for name in _DRIVERS} | {"postgres": "postgresql", "mariadb": "mysql"}


@dataclass(frozen=True)
class DatabaseURL:
    """A database URL. Its text form shows the dialect only, never the password or another part."""

    dialect: str
    dsn: str = field(repr=False)
    connect_timeout_seconds: float = 5.0
    revision_driver: str = ASYNCPG
    """The driver on which revisions run on PostgreSQL: the one that the URL names, such as `postgresql+psycopg2`."""
    fetch_password: FetchPassword | str | None = field(default=None, repr=False, compare=False)
    """A function, or its import path. It returns the password of the next connection, and wins over the URL's."""

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
            wrong, *remedy = error.args
            fix = remedy[0] if remedy else f"use the form {_FORMS[dialect]}"
            raise ConfigurationError(f"{name} is malformed: {wrong}. To fix: {fix}") from None
        driver = postgres.revision_driver(scheme, name) if dialect == "postgresql" else ASYNCPG
        return cls(dialect, dsn, timeout_seconds, driver)

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

    @property
    def connecting(self) -> str:
        """The phrase "connecting to host:port" for messages, without the place if the URL names none."""
        readers = {"postgresql": postgres.places, "mysql": mysql.places}
        places = readers[self.dialect](self.dsn) if self.dialect in readers else ""
        return f"connecting to {places}" if places else "connecting"

    def of_database(self, name: str) -> DatabaseURL:
        """Return the URL of another database of the same PostgreSQL server, with the same parameters."""
        parts = urlsplit(self.dsn)
        query = {key: value for key, value in parse_qsl(parts.query) if key != "dbname"}
        dsn = urlunsplit(parts._replace(path=f"/{quote(name)}", query=encoded(query)))
        return replace(self, dsn=dsn)

    async def password(self) -> str | None:
        """Return what `fetch_password` returns now; None without it. The errors are those of `password.fetched`."""
        if self.fetch_password is None:
            return None
        return await fetched(self.fetch_password, self.connect_timeout_seconds)

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
            context = mysql.context_of(parameters)
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

        The driver passes the URL to libpq. The probes are those of `Limits.server_settings`, seen from this end. It is
        called in `start_blocking`, so that `fetch_password` runs on the migration thread's loop.
        """
        password = None if self.fetch_password is None else wait_on_loop(self.password)
        login = {} if password is None else {"password": password}
        probes = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}
        seconds = round(self.connect_timeout_seconds)
        driver = import_module(self.revision_driver)
        return driver.connect(postgres.for_libpq(self.dsn), connect_timeout=seconds, **probes, **login)

    async def connect(self, **options: Any) -> asyncpg.Connection:
        """Open one connection to PostgreSQL; `options` are those of `asyncpg.connect` and win over the URL's.

        Of several hosts, each has the whole `timeout` to answer, as with libpq. The errors are asyncpg's.
        """
        if self.dialect != "postgresql":
            raise ConfigurationError(
                f"the PostgreSQL driver cannot open a {self.dialect} URL. To fix: connect with sqlalchemy()"
            )
        password = await self.password()
        own = {"timeout": self.connect_timeout_seconds, **postgres.system_trust(self.parameters)}
        options = own | ({} if password is None else {"password": password}) | options
        *others, last = postgres.each_host(self.dsn)
        for dsn in others:
            with suppress(OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched):
                return await asyncpg.connect(dsn, **options)
        return await asyncpg.connect(last, **options)


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


_READERS = {"postgresql": postgres.read, "mysql": mysql.read, "sqlite": _sqlite}
