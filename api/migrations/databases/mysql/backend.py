"""MySQL and MariaDB: `GET_LOCK` on the session that runs the revisions."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from ...core.status import Holder
from ...execution.error_translation import translated
from ...execution.lock_retry import LockRetrySchedule
from ..backend import TableSize
from ..sql_backend import SqlBackend
from ..sql_session import Platform
from .platform import MySQL


class MySQLBackend(SqlBackend):
    """One database of a MySQL or MariaDB server."""

    native_lock = "GET_LOCK of the server, on the session that runs the revisions"
    why_redis = "GET_LOCK holds on one server only"
    transactional_ddl = False
    no_clone = "MySQL and MariaDB cannot roll DDL back, and their lock modes depend on version and storage engine"
    no_backup = (
        "this package takes no backups of MySQL and MariaDB. To fix: take one with mysqldump --single-transaction, or "
        "a snapshot, and then upgrade without --backup"
    )

    @property
    def _lock_namespace(self) -> str:
        # the lock's name is unique per server; in lower case, because a server may treat Shop and shop as one
        # database. If it does not, the two only wait for each other.
        return self.settings.version_table_schema or self.url.database.lower()

    async def table_sizes(self, names: Sequence[str]) -> dict[str, TableSize]:
        """Return the sizes of those of the tables that exist, as the storage engine estimates them."""
        estimates = sa.text(
            "SELECT table_name, data_length + index_length, table_rows FROM information_schema.tables "
            "WHERE table_schema = database() AND table_name IN :names"
        ).bindparams(sa.bindparam("names", expanding=True))
        async with translated("reading from the server"), self.sql_connection() as connection:
            rows = (await connection.execute(estimates, {"names": list(names)})).all()
        return {name: TableSize(int(size or 0), rows) for name, size, rows in rows}

    def platform(self, schedule: LockRetrySchedule, *, create_file: bool) -> Platform:
        """Return the server with its named lock."""
        return MySQL(self.url, self.key, self.limits, schedule)

    def how_to_end(self, holder: Holder) -> str:
        """Say how to KILL the session."""
        return (
            f"run 'KILL {holder.pid};' on the server, which frees the lock. Its process then connects and starts again "
            "unless you stop it first"
        )
