"""Reads PostgreSQL URLs as platforms, SQLAlchemy and libpq write them, for asyncpg and for libpq.

asyncpg sends each parameter that it does not know to the server, as a setting; libpq refuses it.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from ..errors import ConfigurationError
from .parts import addresses, check_address, encoded, joined, split, timeout_seconds

ASYNCPG = "asyncpg"
_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary"}
"""The drivers of PostgreSQL on which revisions can run instead of asyncpg, and their packages."""

_CLIENT_ONLY = frozenset(
    """
    channel_binding client_encoding connect_timeout connection_limit fallback_application_name gssdelegation gssencmode
    keepalives keepalives_count keepalives_idle keepalives_interval load_balance_hosts max_protocol_version
    min_protocol_version pgbouncer pool_timeout replication require_auth sslcertmode sslcompression sslkeylogfile sslsni
    tcp_user_timeout
    async_fallback command_timeout max_cacheable_statement_size max_cached_statement_lifetime
    prepared_statement_cache_size prepared_statement_name_func ssl statement_cache_size timeout
    """.split()
)
"""For the client only: libpq's and ORMs', and those of asyncpg and SQLAlchemy. The server would refuse them."""

_LIBPQ = frozenset(
    """
    application_name dbname gsslib host krbsrvname options passfile password port service ssl_max_protocol_version
    ssl_min_protocol_version sslcert sslcrl sslkey sslmode sslnegotiation sslpassword sslrootcert target_session_attrs
    user
    """.split()
)
"""What both drivers know. Any other parameter is a setting of the server."""

_FILES = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})
_SCHEMAS = frozenset({"schema", "currentschema"})
SYSTEM = "system"
"""The value of `sslrootcert` for the authorities that the operating system trusts."""

_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""From the weakest to the strictest; the strictest of the parameters wins."""
_SWITCHES = dict.fromkeys(("true", "1", "yes", "on"), "require") | dict.fromkeys(("false", "0", "no", "off"), "disable")


def read(text: str) -> tuple[str, float]:
    """Return the URL for asyncpg, and the connect timeout in seconds.

    Raises `ValueError` with what is wrong, and as second argument the remedy if that is not the form of the URL.
    """
    parts, query = split(text)
    # the last @ ends the credentials: people paste passwords without encoding them
    credentials, _, hosts = parts.netloc.rpartition("@")
    check_address(hosts, parts.path)
    _refuse_unknown(query)
    kept = {key: value for key, value in query.items() if key not in _CLIENT_ONLY} | _mode(query)
    if "database" in kept:  # asyncpg's name
        kept["dbname"] = kept.pop("database")
    for name in _FILES & kept.keys():
        if (name, kept[name]) != ("sslrootcert", SYSTEM) and not Path(kept[name]).expanduser().is_file():
            raise ValueError(f"{name} names a file that does not exist")
    seconds = timeout_seconds(query, "connect_timeout", "timeout")
    # asyncpg would read a lone slash as an empty name, and use the user's name instead of `dbname` in the query
    return joined("postgresql", credentials, hosts, parts.path.removesuffix("/"), kept), seconds


def revision_driver(scheme: str, name: str) -> str:
    """Return the driver that the scheme names, on which revisions run.

    Raises `ConfigurationError`, about the setting `name`, if it is not supported or not installed.
    """
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


def each_host(dsn: str) -> list[str]:
    """Return one URL for each host, so that each has the whole timeout."""
    # asyncpg has one limit for all hosts, which a frozen first host would use up each time
    parts = urlsplit(dsn)
    login, at, hosts = parts.netloc.rpartition("@")
    # with prefer-standby the choice depends on all hosts
    if "," not in hosts or "prefer-standby" in parts.query:
        return [dsn]
    return [urlunsplit(parts._replace(netloc=f"{login}{at}{host}")) for host in hosts.split(",")]


def places(dsn: str) -> str:
    """Return the hosts and ports of a URL, for messages; empty if it names none."""
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query))
    return addresses(parts.netloc.rpartition("@")[2] or query.get("host", ""), query.get("port", "5432"))


def system_trust(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return asyncpg's argument for `sslrootcert=system`, which asyncpg takes for a file; else nothing."""
    if parameters.get("sslrootcert") != SYSTEM:
        return {}
    context = ssl.create_default_context()
    if "sslcert" in parameters:
        context.load_cert_chain(parameters["sslcert"], parameters.get("sslkey"), parameters.get("sslpassword", ""))
    return {"ssl": context}


def for_libpq(dsn: str) -> str:
    """Return the URL for libpq, which accepts settings of the server in `options` only."""
    address, _, text = dsn.partition("?")
    query = dict(parse_qsl(text))
    settings = [option(name, query.pop(name)) for name in list(query) if name not in _LIBPQ]
    if settings:
        query["options"] = " ".join([query["options"], *settings] if "options" in query else settings)
    return f"{address}?{encoded(query)}" if query else address


def option(name: str, value: str) -> str:
    """Return the server's command line option for a setting."""
    # the server splits at spaces without a backslash
    return f"-c {name}={value.replace(chr(92), chr(92) * 2).replace(' ', chr(92) + ' ')}"


def _refuse_unknown(query: Mapping[str, str]) -> None:
    for name in query:
        if name.lower() in _SCHEMAS:
            raise ValueError(
                f"PostgreSQL does not know its parameter {name}", "name the schema with search_path=NAME instead"
            )
    if "server_settings" in query:
        raise ValueError(
            "server_settings is an argument in Python code, which a URL cannot contain",
            "write each setting as a parameter of its own, such as statement_timeout=5000",
        )


def _mode(query: Mapping[str, str]) -> dict[str, str]:
    modes = []
    for name in ("sslmode", "ssl") & query.keys():
        word = query[name].lower().replace("_", "-")
        modes.append(_SWITCHES.get(word, word) if name == "ssl" else word)
        if modes[-1] not in _MODES:
            raise ValueError(f"{name} has an unknown value", f"use one of {', '.join(_MODES)}")
    if query.get("sslrootcert") == SYSTEM:
        # as libpq: otherwise everyone who has any certificate could pose as the server
        if any(mode != _MODES[-1] for mode in modes):
            raise ValueError("sslrootcert=system needs sslmode=verify-full", "set sslmode=verify-full")
        modes.append(_MODES[-1])
    return {"sslmode": max(modes, key=_MODES.index)} if modes else {}
