"""How a program of PostgreSQL's own gets to the very server, database and role that a session is connected to.

Everything goes into its environment, which only the same user can read: a command line is anybody's to see.
"""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import asyncpg

from ...urls.database_url import DatabaseURL

_LEADING_ELSEWHERE = {"PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE", "PGCLIENTENCODING"}
_SECRETS = {"DATABASE_URL", "MIGRATION_DATABASE_URL"}
_FROM_URL = {
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "krbsrvname": "PGKRBSRVNAME",
}


def environment(connection: asyncpg.Connection, url: DatabaseURL, application_name: str) -> dict[str, str]:
    """The environment of a child that connects where `connection` is, with the settings that it was opened with.

    Of several hosts it names the one that answered, not the list: the next one to be asked may be a standby.
    """
    # asyncpg has no public way to what it made of URL, environment and password file
    address, known = connection._addr, connection._params
    host, port = _of_socket(address) if isinstance(address, str) else address
    settings = {name: value for name, value in known.server_settings.items() if name != "application_name"}
    given = {variable: url.parameters.get(parameter) for parameter, variable in _FROM_URL.items()} | {
        "PGHOST": host,
        "PGPORT": str(port),
        "PGUSER": known.user,
        "PGPASSWORD": known.password,
        "PGDATABASE": known.database,
        "PGAPPNAME": application_name,
        "PGCONNECT_TIMEOUT": f"{url.connect_timeout_seconds:.0f}",
        "PGOPTIONS": " ".join([settings.pop("options", ""), *map(_option, settings.items())]),
        # errors are passed on, and a translated one would be no more readable in the log
        "LC_ALL": "C",
    }
    kept = {name: value for name, value in os.environ.items() if name not in _LEADING_ELSEWHERE | _SECRETS}
    return kept | {name: value for name, value in given.items() if value is not None}


def _of_socket(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder or "/", PurePosixPath(name).suffix.removeprefix(".")


def _option(setting: tuple[str, str]) -> str:
    name, value = setting
    # the server splits at spaces that no backslash precedes
    return f"-c {name}={value.replace(chr(92), chr(92) * 2).replace(' ', chr(92) + ' ')}"
