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


_READING = frozenset("DESC DESCRIBE EXPLAIN SELECT SET SHOW USE VALUES".split())
_CHANGING_ROWS = frozenset("DELETE DO INSERT MERGE RELEASE REPLACE ROLLBACK SAVEPOINT UPDATE WITH".split())


_OPAQUE = frozenset({"BEGIN", "CALL", "EXECUTE"})
_FOR_ONE = re.compile(r"\ASET\s+STATEMENT\b.*?\bFOR\b", re.IGNORECASE | re.DOTALL)


def code(statement: str) -> str:
    """The statement without the comments and blanks in front of it."""
    start = _COMMENTS.match(statement)
    return statement[start.end() if start else 0 :]


def ends_transaction(statement: str) -> bool:
    """Whether it is COMMIT, END, ROLLBACK or ABORT, and not about a savepoint or a prepared transaction."""
    return _ENDS.match(code(statement)) is not None


def only_reads(statement: str) -> bool:
    """Whether it changes nothing, not even a transaction's state."""
    return _verb(statement) in _READING


def commits_by_itself(statement: str) -> bool:
    """Whether MySQL ends the transaction for it: DDL, and whatever is not known to be harmless.

    "Statements That Cause an Implicit Commit" in MySQL's manual; what is about temporary tables does not.
    """
    verb = _verb(statement)
    if verb in {"CREATE", "DROP"}:
        return not re.match(r"\w+\s+TEMPORARY\b", code(statement), re.IGNORECASE)
    if verb == "SET":
        return "autocommit" in statement.lower()
    return verb not in _READING | _CHANGING_ROWS


def atomic(statement: str) -> bool:
    """Whether MySQL carries it out whole or not at all, as far as its first words tell.

    A procedure may execute anything; of several tables some may be dropped or renamed before it fails at another.
    """
    verb = _verb(statement)
    return verb not in _OPAQUE and not (verb in {"DROP", "RENAME"} and "," in statement)


def _verb(statement: str) -> str:
    # MariaDB: SET STATEMENT max_statement_time = 1 FOR ALTER TABLE …
    text = _FOR_ONE.sub("", code(statement), count=1)
    found = re.match(r"[(\s]*(\w+)", code(text))
    return found[1].upper() if found else ""


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
