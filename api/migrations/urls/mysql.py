"""TLS of a MySQL or MariaDB connection, from what platforms and clients write into a URL.

The context is made here, because the options the driver takes instead cannot check a host name against the
authorities the system trusts. The driver has no "preferred" either: without more than that the connection is plain.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path


class _Mode(IntEnum):
    """From the weakest to the strictest; of several that are given the strictest counts."""

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

_SAYING_HOW = ("ssl", "ssl_mode", "sslmode", "usessl", "sslaccept")
_FILES = {"ssl_ca": "ca", "sslrootcert": "ca", "ssl_cert": "cert", "sslcert": "cert", "ssl_key": "key", "sslkey": "key"}


def tls_of(query: Mapping[str, str]) -> dict[str, str]:
    """The parameters of `query` that concern TLS, in one spelling: `tls` (a mode), `ca`, `cert` and `key` (files).

    Raises:
        ValueError: one is unknown, which would be weaker than what was meant, or names a file that is not there.
    """
    given = {_plain(name): value for name, value in query.items() if _plain(name).startswith(("ssl", "usessl", "tls"))}
    files = {_FILES[name]: value for name, value in given.items() if name in _FILES}
    modes = [_mode(name, value) for name, value in given.items() if name not in _FILES]
    for name in given.keys() & _FILES.keys():
        if not Path(given[name]).expanduser().is_file():
            raise ValueError(f"{name} names a file that is not there")
    mode = max(modes, default=_Mode.VERIFY_IDENTITY if "ca" in files else _Mode.DISABLED)
    if "ca" in files and mode in (_Mode.PREFERRED, _Mode.REQUIRED):
        mode = _Mode.VERIFY_CA
    return {"tls": mode.name, **files} if mode >= _Mode.REQUIRED else {}


def context_of(tls: Mapping[str, str]) -> ssl.SSLContext | None:
    """The context for what `tls_of` returned; None for a connection in plain text.

    Raises:
        ssl.SSLError, OSError: a certificate or key cannot be read.
    """
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


def _plain(text: str) -> str:
    return text.lower().replace("-", "_").replace(" ", "")


def _mode(name: str, value: str) -> _Mode:
    if name not in _SAYING_HOW:
        raise ValueError("it has a TLS parameter that is not known here")
    mode = _MODES.get(_plain(value))
    if mode is None:
        raise ValueError(f"{name} has none of the values known here, such as REQUIRED or VERIFY_IDENTITY")
    return mode
