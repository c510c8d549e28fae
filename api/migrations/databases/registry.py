"""Finds the backend of a URL's database, and the module of its backups. Both folders are optional."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from ..errors import ConfigurationError
from ..execution.history_table import History, RunAuthor
from ..settings import MigrationSettings
from ..urls.database_url import DatabaseURL
from .backend import Backend

if TYPE_CHECKING:
    from .backups.backup import Backup  # optional

_BACKENDS = {
    "postgresql": ("postgres", "PostgresBackend"),
    "mysql": ("mysql", "MySQLBackend"),
    "sqlite": ("sqlite", "SqliteBackend"),
}
"""By dialect: the folder, and the class in its `backend.py`."""


def backend_of(settings: MigrationSettings, url: DatabaseURL) -> Backend:
    """Return the backend of the database of `url`.

    Raises `ConfigurationError` if its folder was left out, or this operating system lacks the lock that it needs.
    """
    folder, name = _BACKENDS[url.dialect]
    try:
        module = _import(f".{folder}.backend", f"databases/{folder}")
    except ModuleNotFoundError as error:
        if error.name != "fcntl":
            raise
        raise ConfigurationError(
            "migrations of SQLite need a lock that this operating system does not have (flock). To fix: use Linux or "
            "macOS (also as WSL, or in a container), or another database"
        ) from error
    return cast("Backend", getattr(module, name)(settings, url))


def backup_of(backend: Backend, folder: str | None, history: History, author: RunAuthor) -> Backup:
    """Return what takes backups into `folder`, or that of the settings, and records them in `history`.

    Raises `ConfigurationError` if this package takes no backups of this database, or lacks the folder `backups`.
    """
    if backend.no_backup is not None:
        raise ConfigurationError(backend.no_backup)
    name, _ = _BACKENDS[backend.url.dialect]
    module = _import(f".backups.{name}", "databases/backups")
    path = Path(folder or backend.settings.backup_dir).expanduser()
    return cast("Backup", module.create(backend.settings, backend.url, path, history, author))


def _import(name: str, folder: str) -> ModuleType:
    try:
        return import_module(name, __package__)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(f"{__package__}."):
            raise
        raise ConfigurationError(
            f"this copy of the package has no folder {folder}. To fix: copy that folder too, or do without it"
        ) from error
