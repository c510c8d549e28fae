"""Database migrations at the start of a service: one of many instances migrates, and the others wait for the schema.

    app = FastAPI(lifespan=lifespan_with_migrations)

What is authoritative
    The version table in the database says where the schema is. The database's own lock decides which session may
    change it: a PostgreSQL advisory lock, MySQL's GET_LOCK, or a lock file beside an SQLite database. The history table
    records each attempt: revision, instance, time, result. An instance never relies on its memory: it reads the
    version again under the lock, and after migrating on a new connection.

What an instance does
    1. Read the version. At head, it is ready; it acquires no lock, and executes neither env.py nor the revisions' files
       unless their text leaves a question open.
    2. Execute env.py without running revisions, to learn its version table and whether it uses the given connection.
    3. Try the lock. If it acquires the lock, it reads the version again, runs the revisions on the session that holds
       the lock, each in its own transaction, verifies on a new connection and releases the lock. The last transaction
       notifies the waiters. If env.py opens its own connection, or the URL names psycopg, that session acquires a
       second lock and runs them.
    4. If another session holds the lock, wait for its notification, and then read the version. Try the lock about every
       second, because the lock holder may have died without one.

What happens if
    the lock holder is killed: its session ends, which releases the lock and rolls back the open transaction. The next
    instance that acquires the lock continues with that revision.
    the lock holder is stopped (SIGSTOP, a frozen host): after MIGRATION_IDLE_SECONDS without a statement the server
    terminates its session, which releases the lock. When the process resumes, its next statement fails.
    another session holds a table lock: the revision waits briefly, is rolled back and retried until the run budget
    ends. Log and health name the blocking session.
    a revision fails: it is rolled back and recorded. The instances that are running fail with the same error instead
    of running it again. Instances that start later retry it, each time after a longer pause.
    the connection is lost while a revision runs: the instance retries once. If the same request loses it in the same
    revision again, that revision has failed. So has a revision that rolls back its own transaction and continues.
    a revision that commits in the middle (`autocommit_block`) does not finish: the schema is `dirty`, and no instance
    continues before a person repairs it, unless the revision declares `idempotent = True`.
    the database is unreachable: the instances wait with backoff until the wait budget ends.
    a budget ends: the instance fails. A timeout never starts the service on the old schema. The result of a run is
    recorded before the run is cancelled, because its lock may end with its connection.
    the database is newer than the build: the instance serves with a warning if the history proves that the build's
    head is an ancestor of the database's revision. Otherwise it refuses. No downgrade is automatic.
    Redis or Kubernetes elects an instance: the elected instance also acquires the database's lock. If it loses its
    hold, the run is cancelled and commits nothing more.
    the database cannot roll back DDL (MySQL): an unfinished revision is half applied from its first DDL statement on.
    the connection goes through a transaction pooler: one transaction has the lock and all revisions, and a revision
    that cannot run in a transaction is refused by name. If a revision cannot acquire a table lock, or times out, its
    rollback releases the lock too, and the next lock holder retries it.

What is not promised
    That a revision is fast, or compatible with the release that still serves. That advisory locks hold across a
    failover with two primaries: they are not replicated. That a notification arrives: it only wakes waiters sooner.
"""

from typing import TYPE_CHECKING, Any

from .settings import MigrationSettings

if TYPE_CHECKING:
    from .startup_integration import lifespan_with_migrations

__all__ = ["MigrationSettings", "lifespan_with_migrations"]

__version__ = "0.1.0"
"""The version of the distribution, and of a copied folder."""


def __getattr__(name: str) -> Any:
    # the command line needs no web framework
    if name != "lifespan_with_migrations":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .startup_integration import lifespan_with_migrations

    return lifespan_with_migrations
