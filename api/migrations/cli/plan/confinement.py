"""Keeps the revisions that run in a clone from reaching beyond it.

A statement that acts on the whole server, or on files and other servers, is not executed. A connection that SQLAlchemy
opens with a URL of its own is refused, and the environment names the clone. What a revision does otherwise cannot be
kept from happening: a connection of the driver's own with a URL from elsewhere, or a request to another service.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..sql.offline import without_connections

_BEYOND = re.compile(
    r"""
      \b(?:create|alter|drop)\s+(?:role|user|group|database|tablespace|subscription|server)\b
    | \balter\s+system\b | \bon\s+(?:role|database|tablespace|parameter)\b | \breassign\s+owned\b | \bdrop\s+owned\b
    # membership in a role: a privilege would be ON something
    | \b(?:grant|revoke)\s+(?:(?!\bon\b)[^;])*?\b(?:to|from)\b
    | \bcopy\b.*\b(?:to|from)\s+(?:program\b|e?')
    | \b(?:pg_(?:terminate|cancel)_backend|pg_reload_conf|pg_rotate_logfile|pg_switch_wal|pg_promote|lo_export)\b
    | \bpg_\w+_replication_(?:slot|origin)\w* | \bdblink\w* | \bpg_file_\w+
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_URLS = ("DATABASE_URL", "MIGRATION_DATABASE_URL")


def reaches_beyond(statement: str) -> bool:
    """Return whether a statement of PostgreSQL may change anything outside its database, also from a body in quotes."""
    return any(_BEYOND.search(text) for text in (statement, _COMMENTS.sub(" ", statement)))


@contextmanager
def confined(url: str) -> Iterator[None]:
    """Let the environment name another database than the real one until the block ends, and refuse other URLs."""
    before = {name: os.environ.get(name) for name in _URLS}
    os.environ.update(dict.fromkeys(_URLS, url))
    try:
        with without_connections():
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
