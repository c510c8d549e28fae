"""SQLite: a lock file beside the database, for the processes of one host."""

from __future__ import annotations

from pathlib import Path

from ...core.status import Holder
from ...errors import ConfigurationError
from ...execution.lock_retry import LockRetrySchedule
from ..sql_backend import SqlBackend
from ..sql_session import Platform
from .lock_file import lock_file
from .placement import find, refuse_unsafe
from .platform import Sqlite


class SqliteBackend(SqlBackend):
    """One SQLite file."""

    native_lock = "a lock file beside the database, for the processes of one host"
    holder_kind = "process"
    no_clone = "SQLite has one lock for the whole database: a writer lets other writers wait"

    def check_strategy(self) -> None:
        """Raise `ConfigurationError` for a file that the instances do not share, or that cannot be locked."""
        refuse_unsafe(self.settings.strategy, find(Path(self.url.database)))

    @property
    def _lock_namespace(self) -> None:
        if self.settings.version_table_schema:
            raise ConfigurationError("SQLite has no schemas. To fix: unset MIGRATION_VERSION_TABLE_SCHEMA")

    @property
    def lock_name(self) -> str:
        """The name of the lock file."""
        return lock_file(Path(self.url.database), self.key).name

    def platform(self, schedule: LockRetrySchedule, *, create_file: bool) -> Platform:
        """Return the file with its lock file."""
        return Sqlite(self.url, self.key, self.limits, schedule, self.settings.instance, create_file=create_file)

    def how_to_end(self, holder: Holder) -> str:
        """Say how to end the process."""
        # 0 is not known yet; 1 is a container's first process, which has another number outside
        known = (holder.pid or 0) > 1
        process = f"process {holder.pid} of {holder.instance}" if known else f"instance {holder.instance}"
        return f"end {process} (on its host, or in its container), which frees the lock"
