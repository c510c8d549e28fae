"""Reads URLs of MySQL and MariaDB, and their TLS parameters as platforms and clients write them.

The context is built here, because the driver's own options cannot check a host name against the authorities that the
system trusts. The driver does not support "preferred" either: unless TLS is required, the connection is plain text.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from .parts import addresses, check_address, joined, split, timeout_seconds


class _Mode(IntEnum):
    """From the weakest to the strictest; the strictest of the parameters wins."""

    DISABLED = 0
    PREFERRED = 1
    REQUIRED = 2
    VERIFY_CA = 3
    VERIFY_IDENTITY = 4


_MODES = {
    **dict.fromkeys(["disabled", "disable", "false", "0", "no", "off"], _Mode.DISABLED),
    **dict.fromkeys(["preferred", "prefer", "allow"], _Mode.PREFERRED),
    **dict.fromkeys(["required", "require", "true", "1", "yes", "on"], _Mode.REQUIRED),
    **dict.fromkeys(["accept_invalid_certs", '{"rejectunauthorized":false}'], _Mode.REQUIRED),
    "verify_ca": _Mode.VERIFY_CA,
    **dict.fromkeys(["verify_identity", "verify_full", "strict", '{"rejectunauthorized":true}'], _Mode.VERIFY_IDENTITY),
}

_MODE_PARAMETERS = ("ssl", "ssl_mode", "sslmode", "usessl", "sslaccept")
_FILES = {"ssl_ca": "ca", "sslrootcert": "ca", "ssl_cert": "cert", "sslcert": "cert", "ssl_key": "key", "sslkey": "key"}


def read(text: str) -> tuple[str, float]:
    """Return the URL with the parameters for the driver, and the connect timeout in seconds; raises `ValueError`."""
    parts, query = split(text)
    credentials, _, host = parts.netloc.rpartition("@")
    if "," in host:
        raise ValueError("it names several hosts, but the driver accepts one")
    check_address(host, parts.path)
    name = unquote(parts.path[1:])
    if not name:
        raise ValueError("it names no database")
    socket = query.get("unix_socket") or query.get("socket")
    # the other parameters are for other clients, such as pools and time zones
    kept = tls_of(query) | ({"unix_socket": socket} if socket else {})
    seconds = timeout_seconds(query, "connect_timeout")
    return joined("mysql", credentials, host, f"/{quote(name, safe='')}", kept), seconds


def places(dsn: str) -> str:
    """Return host and port of a URL, or its socket, for messages; empty if it names none."""
    parts = urlsplit(dsn)
    return dict(parse_qsl(parts.query)).get("unix_socket") or addresses(parts.netloc.rpartition("@")[2], "3306")


def tls_of(query: Mapping[str, str]) -> dict[str, str]:
    """Return the TLS parameters of `query` in one spelling: `tls` (a mode), `ca`, `cert` and `key` (files).

    Raises `ValueError` if one is unknown, because ignoring it could weaken TLS, or names a file that does not exist.
    """
    normalized = {_normalized(name): value for name, value in query.items()}
    given = {name: value for name, value in normalized.items() if name.startswith(("ssl", "usessl", "tls"))}
    files = {_FILES[name]: value for name, value in given.items() if name in _FILES}
    modes = [_mode(name, value) for name, value in given.items() if name not in _FILES]
    for name in given.keys() & _FILES.keys():
        if not Path(given[name]).expanduser().is_file():
            raise ValueError(f"{name} names a file that does not exist")
    mode = max(modes, default=_Mode.VERIFY_IDENTITY if "ca" in files else _Mode.DISABLED)
    if "ca" in files and mode in (_Mode.PREFERRED, _Mode.REQUIRED):
        mode = _Mode.VERIFY_CA
    return {"tls": mode.name, **files} if mode >= _Mode.REQUIRED else {}


def context_of(tls: Mapping[str, str]) -> ssl.SSLContext | None:
    """Return the context for the result of `tls_of`; None for plain text. Raises `OSError` if a file cannot be read."""
    if "tls" not in tls:
        return None
    mode = _Mode[tls["tls"]]
    files = {name: str(Path(tls[name]).expanduser()) for name in ("ca", "cert", "key") if name in tls}
    context = ssl.create_default_context(cafile=files.get("ca"))
    context.check_hostname = mode is _Mode.VERIFY_IDENTITY
    if mode is _Mode.REQUIRED:
        context.verify_mode = ssl.CERT_NONE
    if "cert" in files:
        context.load_cert_chain(files["cert"], files.get("key"))
    return context


def _normalized(text: str) -> str:
    return text.lower().replace("-", "_").replace(" ", "")


def _mode(name: str, value: str) -> _Mode:
    if name not in _MODE_PARAMETERS:
        raise ValueError("it has an unknown TLS parameter")
    mode = _MODES.get(_normalized(value))
    if mode is None:
        raise ValueError(f"{name} has an unknown value; use for example REQUIRED or VERIFY_IDENTITY")
    return mode
