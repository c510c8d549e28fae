"""Splits URLs into parts and joins them again; no error quotes a part, which may be the password."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit


def split(text: str) -> tuple[SplitResult, dict[str, str]]:
    """Return the parts of a URL, and its query. Raises `ValueError` if it cannot be parsed."""
    try:
        parts = urlsplit(text)
        query = dict(parse_qsl(parts.query, keep_blank_values=False, strict_parsing=bool(parts.query)))
    except ValueError:
        # the library's error quotes what it could not parse
        raise ValueError("its host or query cannot be parsed") from None
    if parts.fragment:
        raise ValueError("it contains '#'")
    return parts, query


def joined(scheme: str, credentials: str, hosts: str, path: str, query: Mapping[str, str]) -> str:
    """Return the URL of these parts, with user and password percent-encoded."""
    login = ":".join(quote(unquote(part), safe="") for part in credentials.split(":", 1))
    return f"{scheme}://{login and login + '@'}{hosts}{path}{'?' + encoded(query) if query else ''}"


def encoded(query: Mapping[str, str]) -> str:
    """Return the query's text; libpq does not read + as a space."""
    return urlencode(query, quote_via=quote)


def check_address(hosts: str, path: str) -> None:
    """Raise `ValueError` if a port is none, or if a part of the password was probably read as the address."""
    for port in map(_port, hosts.split(",")):
        if port and not (port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError("a port is not a number from 1 to 65535")
    # messages name host and port
    if "@" in path:
        raise ValueError("it contains '@' after '/'")


def timeout_seconds(query: Mapping[str, str], *names: str) -> float:
    """Return the connect timeout: the first of the parameters `names` that is given; 0 means the default, 5 seconds."""
    name = next((name for name in names if name in query), None)
    text = "5" if name is None else query[name]
    if not text.isdecimal():
        raise ValueError(f"{name} is not a whole number of seconds")
    return float(text) or 5.0


def addresses(hosts: str, ports: str) -> str:
    """Return the hosts with their ports, for messages; a socket has no port."""
    each, numbers = [unquote(host) for host in hosts.split(",") if host], ports.split(",")
    numbers = numbers if len(numbers) == len(each) else numbers[:1] * len(each)
    named = zip(each, numbers, strict=True)
    return ", ".join(host if host.startswith("/") or _port(host) else f"{host}:{port}" for host, port in named)


def _port(host: str) -> str:
    return host.rpartition("]")[2].partition(":")[2]
