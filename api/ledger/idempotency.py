"""The Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header) and the fingerprint of a payload."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import sha256

from pydantic import BaseModel

from .errors import KeyMalformed, KeyMissing

LONGEST_KEY = 255

# RFC 8941 String: printable ASCII in double quotes, in which only a quote and a backslash are escaped.
_QUOTED = rf'"([ !#-\[\]-~]|\\["\\]){{1,{LONGEST_KEY}}}"'
_BARE = rf"[!#-+\--:<-\[\]-~]{{1,{LONGEST_KEY}}}"

KEY_PATTERN = f"^({_QUOTED}|{_BARE})$"
"""The header's value, in the syntax that the regular expressions of all languages have in common."""


def parse_key(headers: Sequence[str]) -> str:
    """Return the key in the values of a request's Idempotency-Key headers.

    The draft wants a quoted string; most clients send the bare key, which means the same one here.

    Raises:
        KeyMissing: there is no header.
        KeyMalformed: it is empty, too long, or not what the draft allows, or there are several, even equal ones.
    """
    if not headers:
        raise KeyMissing
    # the draft's header is one Item of RFC 8941, which several lines cannot be
    if len(headers) > 1 or not re.fullmatch(KEY_PATTERN, headers[0]):
        raise KeyMalformed(headers)
    [header] = headers
    return re.sub(r"\\(.)", r"\1", header[1:-1]) if header.startswith('"') else header


def fingerprint(payload: BaseModel) -> str:
    """SHA-256, in hexadecimal, of a validated payload: the order of JSON members and white space do not count."""
    canonical = json.dumps(payload.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return sha256(canonical.encode()).hexdigest()
