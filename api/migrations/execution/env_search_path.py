"""Finds the schema that `env.py` chose with PostgreSQL's search path (`SET search_path TO tenant_a`)."""

from __future__ import annotations

import re

import sqlalchemy as sa

_CHANGED = {
    "postgresql": "SELECT setting, current_user FROM pg_catalog.pg_settings "
    "WHERE name = 'search_path' AND setting <> reset_val"
}
_FIRST = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,]*))')


def chosen_schema(connection: sa.Connection) -> str | None:
    """Return the first schema in the search path if the session changed it; must not be called in a transaction."""
    query = _CHANGED.get(connection.dialect.name)
    if query is None:
        return None
    changed = connection.exec_driver_sql(query).first()
    connection.rollback()
    return None if changed is None else first_schema(*changed)


def first_schema(search_path: str, user: str) -> str | None:
    """Return the first name of a search path as PostgreSQL shows it, unquoted; `$user` means the schema of `user`."""
    found = _FIRST.match(search_path)
    name = (found[1].replace('""', '"') if found[1] is not None else found[2].strip()) if found else ""
    return (user if name == "$user" else name) or None
