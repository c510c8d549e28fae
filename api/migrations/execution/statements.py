"""Classifies SQL statements by their first words, without names and values, which must not be shown."""

from __future__ import annotations

import re
from itertools import takewhile

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
_READING_PRAGMA = re.compile(r"PRAGMA\s+(?:\w+\.)?(?:table_|index_|foreign_key_list|database_list)\w*", re.IGNORECASE)
_FOR_ONE = re.compile(r"\ASET\s+STATEMENT\b.*?\bFOR\b", re.IGNORECASE | re.DOTALL)


def uncommented(statement: str) -> str:
    """Return the statement without leading comments and blanks."""
    start = _COMMENTS.match(statement)
    return statement[start.end() if start else 0 :]


def ends_transaction(statement: str) -> bool:
    """Whether the statement is COMMIT, END, ROLLBACK or ABORT, but not of a savepoint or a prepared transaction."""
    return _ENDS.match(uncommented(statement)) is not None


def only_reads(statement: str) -> bool:
    """Whether the statement changes nothing, not even the state of the transaction."""
    return _verb(statement) in _READING or _READING_PRAGMA.match(uncommented(statement)) is not None


def commits_by_itself(statement: str) -> bool:
    """Whether MySQL commits the transaction before the statement: DDL, and every statement not known to be harmless.

    See "Statements That Cause an Implicit Commit" in MySQL's manual; statements on temporary tables do not.
    """
    verb = _verb(statement)
    if verb in {"CREATE", "DROP"}:
        return not re.match(r"\w+\s+TEMPORARY\b", uncommented(statement), re.IGNORECASE)
    if verb == "SET":
        return "autocommit" in statement.lower()
    return verb not in _READING | _CHANGING_ROWS


def atomic(statement: str) -> bool:
    """Whether MySQL executes the statement wholly or not at all, judged by its first words.

    A procedure may execute anything; DROP or RENAME of several tables may fail after the first.
    """
    verb = _verb(statement)
    return verb not in _OPAQUE and not (verb in {"DROP", "RENAME"} and "," in statement)


def _verb(statement: str) -> str:
    # MariaDB: SET STATEMENT max_statement_time = 1 FOR ALTER TABLE …
    text = _FOR_ONE.sub("", uncommented(statement), count=1)
    found = re.match(r"[(\s]*(\w+)", uncommented(text))
    return found[1].upper() if found else ""


def kind(statement: str) -> str:
    """Return `CREATE UNIQUE INDEX CONCURRENTLY`, `ALTER TABLE`, `UPDATE`, …; `statement` for an unknown one."""
    words = re.findall(r"\w+|[^\w\s]", uncommented(statement)[:200].upper())
    if not words or words[0] not in _VERBS:
        return "statement"
    return " ".join([words[0], *takewhile(_OBJECTS.__contains__, words[1:])])
