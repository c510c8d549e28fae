"""The search path of a PostgreSQL session, where `env.py` chooses a schema by it (`SET search_path TO tenant_a`)."""

from __future__ import annotations

import re

import sqlalchemy as sa

_CHANGED = {
    "postgresql": "SELECT setting, current_user FROM pg_catalog.pg_settings "
    "WHERE name = 'search_path' AND setting <> reset_val"
}
_FIRST = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,]*))')


def chosen_schema(connection: sa.Connection) -> str | None:
    """The first schema in the session's search path; None where the path is the one that it started with.

    The connection must not be in a transaction, and is in none afterwards.
    """
    query = _CHANGED.get(connection.dialect.name)
    if query is None:
        return None
    changed = connection.exec_driver_sql(query).first()
    connection.rollback()
    return None if changed is None else first_schema(*changed)


def first_schema(search_path: str, user: str) -> str | None:
    """The first name of a search path as PostgreSQL shows it, without its quotes; `$user` is the user's own schema."""
    found = _FIRST.match(search_path)
    name = (found[1].replace('""', '"') if found[1] is not None else found[2].strip()) if found else ""
    return (user if name == "$user" else name) or None
