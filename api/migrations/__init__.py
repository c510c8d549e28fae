"""Migrations for a service of many instances: one migrates, the others see it finish, none is ready before.

    app = FastAPI(lifespan=lifespan_with_migrations)

Who is authoritative
    The version table in the database says where the schema is; nothing else does. The database's own lock says who may
    change it: an advisory lock of PostgreSQL's, GET_LOCK of MySQL's, a lock file beside SQLite's. The history table
    explains: who tried what, when, and how it ended. An instance's own memory counts for nothing: whatever it believes,
    it reads again under the lock and, after migrating, on a fresh connection.

What an instance does
    Read the version. At head: ready, without a lock. Behind: ask env.py, by executing it with nothing run, which
    version table it means, and whether it can run on a connection that is given to it. Then try the lock. Got it: read
    again, run the revisions on the very session that holds the lock, verify on a new connection, unlock, notify. Did
    not get it: watch the version, woken by the notification or by a jittered poll, and try the lock again each time,
    because the holder may have died. Every revision is a transaction of its own.

When something happens
    The holder is killed: its session ends, and lock and open transaction end with it. The next one that tries
    continues at the revision that was rolled back.
    The holder is stopped (SIGSTOP, a frozen host): the server ends its session after MIGRATION_IDLE_SECONDS without a
    statement, and with it the lock; when it wakes up, its next statement fails.
    Somebody else holds a table's lock: the revision asks briefly, is rolled back, and asks again, until the run's
    budget ends; log and health say who is in the way.
    A revision fails: it is rolled back and recorded. Instances that were there at the time fail with the same error
    instead of running it again in turn; a later start tries again, each time later.
    The connection is lost while a revision runs: the instance tries again. Lost again by the same order in the same
    revision, that revision has failed: it may end its own session, or crash the server for everyone. One that rolls
    back its own transaction has failed too: what follows would be committed, and counted as the whole.
    A revision that commits in the middle (`autocommit_block`) does not finish: the schema is `dirty`, and nobody
    goes on before a person has looked, unless the revision declares `idempotent = True`. The message names its last
    kind of statement and the INVALID indexes that it left.
    The database is away: everyone waits, with backoff, within the wait budget.
    The budget ends: the instance fails. A timeout never means "start anyway". A run's end is recorded before it is
    cancelled, because its lock may go with the connection; what was committed by then is not called failed.
    The database is newer than the build: it serves with a warning if the history proves that its own head is an
    ancestor of what is there, and refuses otherwise. Nothing is ever downgraded by itself.
    Redis or Kubernetes decides who tries (strategies `redis`, `kubernetes`): the database's own lock is taken as well
    and still decides who runs. When that hold is lost the run is cancelled, and nothing is committed after it.
    The database cannot roll DDL back (MySQL): a revision that does not finish is half applied from its first DDL on.
    A pooler in transaction mode is in between: one transaction carries lock and revisions; a revision that cannot
    run in one is refused by name. One that does not get a table lock is rolled back with the lock, and tried again by
    whoever gets that next; so may be one that ran out of time, for its record comes after the end of its transaction.

What is not promised
    That a revision runs fast, or that it is compatible with the release that is still serving. That advisory locks
    hold across a failover with two primaries: they are not replicated. That a notification arrives: it only makes
    waking faster. That anything is undone: a downgrade is a person's decision.
"""

from .settings import MigrationSettings
from .startup_integration import lifespan_with_migrations

__all__ = ["MigrationSettings", "lifespan_with_migrations"]
