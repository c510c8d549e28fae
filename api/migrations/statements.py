"""What kind of statement it is: its first words, without the names and values that nobody outside may see."""

from __future__ import annotations

import re

_COMMENTS = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)+", re.DOTALL)
_ENDS = re.compile(r"(?:COMMIT|END|ROLLBACK|ABORT)\b(?!.*\b(?:TO|PREPARED)\b)", re.IGNORECASE | re.DOTALL)
_VERBS = frozenset(
    "ALTER ANALYZE CALL CLUSTER COMMENT COPY CREATE DELETE DO DROP GRANT INSERT LOCK MERGE REFRESH REINDEX REVOKE "
    "SELECT SET TRUNCATE UPDATE VACUUM VALUES WITH".split()
)
_OBJECTS = frozenset(
    "CONCURRENTLY DATABASE DOMAIN EXTENSION FUNCTION INDEX MATERIALIZED OR POLICY PROCEDURE REPLACE ROLE SCHEMA "
    "SEQUENCE SYSTEM TABLE TEMPORARY TRIGGER TYPE UNIQUE UNLOGGED VIEW".split()
)


def code(statement: str) -> str:
    """The statement without the comments and blanks in front of it."""
    start = _COMMENTS.match(statement)
    return statement[start.end() if start else 0 :]


def ends_transaction(statement: str) -> bool:
    """Whether it is COMMIT, END, ROLLBACK or ABORT, and not about a savepoint or a prepared transaction."""
    return _ENDS.match(code(statement)) is not None


def kind(statement: str) -> str:
    """`CREATE UNIQUE INDEX CONCURRENTLY`, `ALTER TABLE`, `UPDATE`, …; `statement` for what it does not know."""
    words = re.findall(r"\w+|\W", code(statement)[:200].upper())
    verb, *rest = [word for word in words if not word.isspace()] or [""]
    if verb not in _VERBS:
        return "statement"
    told = [verb]
    for word in rest:
        if word not in _OBJECTS:
            break
        told.append(word)
    return " ".join(told)
