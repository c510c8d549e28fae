"""Merges the options of `env.py` for `context.configure` with those that the package needs.

Most options pass unchanged (`version_table_pk`, `compare_type`, `process_revision_directives`, …). An option that both
sides pass is merged or refused by name, never overridden silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..errors import ConfigurationError, ForeignConnection

_REQUIRED = {
    "transaction_per_migration": "each revision must run in its own transaction, so that it stays when a later fails",
    "transactional_ddl": "the database determines whether DDL can be rolled back",
}


@dataclass(frozen=True)
class VersionTable:
    """The table with the current revisions of a database or of one schema."""

    name: str
    schema: str | None = None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


@dataclass(frozen=True)
class Target:
    """A version table that `env.py` migrates; `url` and `database` only if it connects to several databases."""

    table: VersionTable
    url: sa.URL | None = None
    """The URL of its engine."""
    database: str | None = None
    """The argument `engine_name` of `run_migrations`, as in Alembic's template `multidb`, or the database's name."""


@dataclass(frozen=True)
class Pass:
    """One of several passes of `env.py`: its target, and the version table of a pass that names none."""

    target: Target
    default: VersionTable

    def matches(self, options: Mapping[str, Any], search_path: str | None, url: sa.URL) -> bool:
        """Return whether a call of `configure` on an engine with `url` is this pass."""
        same_table = self.target.table == named(options, self.default, search_path)
        return same_table and self.target.url in {None, url}


def scope_names(targets: Sequence[Target]) -> list[str | None]:
    """Return a name for each target: "schema shop", "database orders", "database orders, schema shop".

    No two are equal: a database that has another one's name, on another server, gets a number.
    """
    if len(targets) == 1:
        return [None]
    of_url, seen = Counter(target.url for target in targets), Counter[str]()
    names: list[str | None] = []
    for target in targets:
        database = [f"database {target.database}"] if len(of_url) > 1 else []
        schema = [f"schema {target.table.schema or target.table.name}"] if of_url[target.url] > 1 else []
        name = ", ".join(database + schema)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def refuse_unnamed(targets: Sequence[Target], database: str) -> None:
    """Raise `ForeignConnection` if `env.py` migrates several databases, and not the one that DATABASE_URL names."""
    known = {target.url.database for target in targets if target.url is not None}
    if known and database not in known:
        raise ForeignConnection(
            f"env.py migrates the databases {', '.join(sorted(map(str, known)))}, but DATABASE_URL names {database}. "
            "To fix: let DATABASE_URL name one of them"
        )


def named(options: Mapping[str, Any], default: VersionTable, search_path: str | None) -> VersionTable:
    """Return the version table of a call of `configure` with `options`.

    `search_path` is the first schema of the search path if `env.py` set one: a table without a schema is there.
    """
    name = options.get("version_table") or default.name
    return VersionTable(name, options.get("version_table_schema") or search_path or default.schema)


def merged(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for Alembic's `configure`: `theirs`, `ours` as defaults, and the hooks of both.

    Raises `ConfigurationError` if `theirs` contradict an option that the package requires.
    """
    for name, why in _REQUIRED.items():
        if name in theirs and name in ours and theirs[name] is not None and theirs[name] != ours[name]:
            raise ConfigurationError(
                f"env.py calls context.configure({name}={theirs[name]!r}), but {why}. To fix: remove {name} there"
            )
    given = {name: value for name, value in theirs.items() if value is not None or name not in ours}
    hooks = (*_as_tuple(theirs.get("on_version_apply")), *_as_tuple(ours.get("on_version_apply")))
    return {**ours, **given, "on_version_apply": hooks}


def agreed(table: VersionTable, options: Mapping[str, Any], settings: Mapping[str, str | None]) -> VersionTable:
    """Return `table`, which `env.py` names in `options`; raise `ConfigurationError` if a setting names another one."""
    for variable, option, value in (
        ("MIGRATION_VERSION_TABLE", "version_table", table.name),
        ("MIGRATION_VERSION_TABLE_SCHEMA", "version_table_schema", table.schema),
    ):
        wanted = settings.get(variable)
        if wanted is not None and wanted != value:
            where = option if options.get(option) else "the search path that it sets"
            raise ConfigurationError(
                f"env.py and {variable} name different version tables: env.py says {value} ({where}), the setting "
                f"says {wanted}. Nothing was migrated. To fix: unset {variable}, or set both to the same value"
            )
    return table


def _as_tuple(hooks: Any) -> tuple[Any, ...]:
    return tuple(hooks) if isinstance(hooks, (list, tuple, set)) else (hooks,) if hooks else ()
