"""The status of an instance with a value in each field, for tests of what shows it."""

from api.migrations.core.schema import Schema, SchemaState
from api.migrations.core.status import (
    Blocker,
    Holder,
    LastRun,
    Limit,
    LockStatus,
    Member,
    Phase,
    Progress,
    Statement,
    Status,
)

STATUS = Status(
    phase=Phase.WAITING,
    since=1700000100.0,
    instance="web-2",
    release="v7",
    strategy="advisory_lock",
    dialect="postgresql",
    lock_key="0x01 (classid 0, objid 1)",
    reachable=True,
    read_at=1700000104.0,
    schema=Schema(SchemaState.BEHIND, frozenset("ba"), frozenset("d"), ("c", "d")),
    progress=Progress(1, 3, "c", 1700000000.0, 2, 1700000110.0),
    lock_status=LockStatus(
        Holder("web-1", 4242, 1700000000.0, "active"),
        Statement("CREATE INDEX CONCURRENTLY", "building index", 12.5, 3.0),
        (Blocker(77, "reports", "app", "idle in transaction", 12.5, "accounts", "AccessExclusiveLock"),),
        (Member("web-1", "migrating", 4242, 1700000000.0),),
    ),
    blocked_since=1700000000.0,
    limit=Limit(1700000350.0, "MIGRATION_WAIT_SECONDS"),
    invalid_indexes=("ix",),
    waiting_since=1700000050.0,
    last_run=LastRun("failed", "web-1", 1700000000.0, 1700000060.0, ("b",), "boom"),
    message="the database is at b",
)
"""A waiter, while another session blocks the lock holder."""
