"""Opaque page cursors: the id of the last transaction shown.

They are encoded, so that no client computes them; the version in front lets a later release change the content.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

from .errors import CursorMalformed

_CONTENT = re.compile(rb"1:([1-9][0-9]{0,18})")
_LARGEST_ID = 2**63 - 1


def encode(last_id: int) -> str:
    """Return the cursor that continues below the transaction `last_id`."""
    return urlsafe_b64encode(b"1:%d" % last_id).rstrip(b"=").decode("ascii")


def decode(cursor: str) -> int:
    """Return the id in a cursor.

    Raises:
        CursorMalformed: `encode` never returns this text.
    """
    try:
        content = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        raise CursorMalformed(cursor) from None
    match = _CONTENT.fullmatch(content)
    last_id = int(match[1]) if match else 0
    # base64 ignores unknown letters, so the cursor must equal the encoding of its id
    if not 0 < last_id <= _LARGEST_ID or encode(last_id) != cursor:
        raise CursorMalformed(cursor)
    return last_id
