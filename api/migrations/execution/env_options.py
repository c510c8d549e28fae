"""What `env.py` says to `context.configure`, composed with what the package needs: nothing is overridden silently.

Most options are the project's own and pass unchanged (`version_table_pk`, `compare_type`,
`process_revision_directives`, …). Where both sides say something it is composed, or refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError

_PROMISES = {
    "transaction_per_migration": "each revision must run in its own transaction, so that it stays when a later fails",
    "transactional_ddl": "the database determines whether DDL can be rolled back",
}


@dataclass(frozen=True)
class VersionTable:
    """The table that says which revisions a database, or one schema of it, is at."""

    name: str
    schema: str | None = None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


@dataclass(frozen=True)
class Pass:
    """One of several passes of `env.py`: its version table, and the one that counts where a pass names none."""

    table: VersionTable
    default: VersionTable


def named(options: Mapping[str, Any], default: VersionTable, search_path: str | None) -> VersionTable:
    """The version table that a call of `configure` names.

    Args:
        options: of the call.
        default: what counts where the call does not say.
        search_path: the first schema in the search path, where `env.py` has set one: a table without a schema is there.
    """
    name = options.get("version_table") or default.name
    return VersionTable(name, options.get("version_table_schema") or search_path or default.schema)


def merged(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The options for Alembic's `configure`: `theirs`, and `ours` where they say nothing; hooks of both are called.

    Raises:
        ConfigurationError: they say what would break a promise of the package.
    """
    for name, why in _PROMISES.items():
        if name in theirs and name in ours and theirs[name] is not None and theirs[name] != ours[name]:
            raise ConfigurationError(
                f"env.py calls context.configure({name}={theirs[name]!r}), but {why}. To fix: remove {name} there"
            )
    said = {name: value for name, value in theirs.items() if value is not None or name not in ours}
    hooks = (*_as_tuple(theirs.get("on_version_apply")), *_as_tuple(ours.get("on_version_apply")))
    return {**ours, **said, "on_version_apply": hooks}


def agreed(said: VersionTable, options: Mapping[str, Any], settings: Mapping[str, str | None]) -> VersionTable:
    """`said`, which is what `env.py` names, unless a setting names another table.

    Args:
        said: the version table of a call of `configure`.
        options: of the call.
        settings: the value of each setting about the version table that is set, by its name.

    Raises:
        ConfigurationError: a setting and `env.py` name two.
    """
    for variable, option, value in (
        ("MIGRATION_VERSION_TABLE", "version_table", said.name),
        ("MIGRATION_VERSION_TABLE_SCHEMA", "version_table_schema", said.schema),
    ):
        wanted = settings.get(variable)
        if wanted is not None and wanted != value:
            where = option if options.get(option) else "the search path that it sets"
            raise ConfigurationError(
                f"env.py and {variable} name different version tables: env.py says {value} ({where}), the setting "
                f"says {wanted}. Nothing was migrated. To fix: unset {variable}, or set both to the same value"
            )
    return said


def _as_tuple(hooks: Any) -> tuple[Any, ...]:
    return tuple(hooks) if isinstance(hooks, (list, tuple, set)) else (hooks,) if hooks else ()
