"""The Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header) and the fingerprint of a payload."""

from __future__ import annotations

import json
import re
from hashlib import sha256

from pydantic import BaseModel

from .errors import KeyMalformed, KeyMissing

LONGEST_KEY = 255

# RFC 8941 String: printable ASCII in double quotes, in which only a quote and a backslash are escaped.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"')
_BARE = re.compile(r"[!#-+\--:<-\[\]-~]+")


def parse_key(header: str | None) -> str:
    """Return the key in a header value.

    The draft wants a quoted string; most clients send the bare key, which means the same one here.

    Raises:
        KeyMissing: there is no header.
        KeyMalformed: it is empty, too long, or not what the draft allows.
    """
    if header is None:
        raise KeyMissing
    quoted = _QUOTED.fullmatch(header)
    if quoted:
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    elif _BARE.fullmatch(header):
        key = header
    else:
        raise KeyMalformed(header)
    if len(key) > LONGEST_KEY:
        raise KeyMalformed(header)
    return key


def fingerprint(payload: BaseModel) -> str:
    """SHA-256, in hexadecimal, of a validated payload: the order of JSON members and white space do not count."""
    canonical = json.dumps(payload.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return sha256(canonical.encode()).hexdigest()
