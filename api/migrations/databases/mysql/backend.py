"""MySQL and MariaDB: `GET_LOCK` on the session that runs the revisions."""

from __future__ import annotations

from ...core.status import Holder
from ...execution.lock_retry import LockRetrySchedule
from ..sql_backend import SqlBackend
from ..sql_session import Platform
from .platform import MySQL


class MySQLBackend(SqlBackend):
    """One database of a MySQL or MariaDB server."""

    native_lock = "GET_LOCK of the server, on the session that runs the revisions"
    why_redis = "GET_LOCK holds on one server only"
    transactional_ddl = False
    no_backup = (
        "backups of MySQL and MariaDB are not made here; take one with mysqldump --single-transaction, or a snapshot, "
        "and then upgrade without --backup"
    )

    @property
    def _lock_namespace(self) -> str:
        # the lock's name is the server's; in lower case, for a server may take Shop and shop for one database: two
        # that are two then only wait for one another
        return self.settings.version_table_schema or self.url.database.lower()

    def platform(self, schedule: LockRetrySchedule, *, create_file: bool) -> Platform:
        """The server and its named lock."""
        return MySQL(self.url, self.key.channel, self.limits, schedule)

    def how_to_end(self, holder: Holder) -> str:
        """KILL, on the server."""
        return (
            f"run 'KILL {holder.pid};' on the server, which frees the lock; its process connects again and starts "
            "over, so end that first if it shall not go on"
        )
