"""The status of an instance with a value in each field, and in ten states, for tests of what shows it."""

from dataclasses import replace

from api.migrations.core.schema import HalfApplied, Recorded, Schema, SchemaState, explain
from api.migrations.core.status import (
    Blocker,
    Holder,
    LastRun,
    Limit,
    LockStatus,
    Member,
    Phase,
    Progress,
    Retry,
    Statement,
    Status,
)
from api.migrations.errors import DatabaseUnreachable, RevisionFailed

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
        (Blocker(77, "reports", "app", "idle in transaction", 12.5, "accounts", "AccessExclusiveLock", "superuser"),),
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

NOW = 1700000105.0
_BEHIND = Schema(
    SchemaState.BEHIND, frozenset({"8e1f0c2d9a47"}), frozenset({"4b7a91d0e6c3"}), ("c1e581bee4c1", "4b7a91d0e6c3")
)
_HISTORY = tuple(
    Recorded(revision, "upgrade", "applied", "release-job", NOW - 86400 - age, 0.2)
    for age, revision in enumerate(("8e1f0c2d9a47", "6cf7366f0127", "f46bc910ddb3"))
)
_FLEET = (
    Member("api-1", "migrating", 7651, NOW - 21),
    *(Member(f"api-{n}", "waiting", 7654 + n, NOW - 20) for n in (2, 3)),
)
_HOLDER = Holder("api-1", 7651, NOW - 21, "active")
_REPORT = Blocker(
    7641,
    "nightly-report",
    "reporting",
    "idle in transaction",
    312.0,
    "accounts",
    "AccessExclusiveLock",
    "GRANT pg_signal_backend TO shop_owner",
)
_WAITING = Status(
    Phase.WAITING,
    since=NOW - 20,
    instance="api-2",
    release="v42",
    strategy="advisory_lock",
    dialect="postgresql",
    lock_key="0x0fdeb4c6e0529396 (classid 266253510, objid 3763508118)",
    reachable=True,
    read_at=NOW - 1,
    schema=_BEHIND,
    progress=Progress(0, 2, "c1e581bee4c1", NOW - 20),
    lock_status=LockStatus(_HOLDER, Statement("CREATE INDEX CONCURRENTLY", "building index", 42.0, 18.0), (), _FLEET),
    limit=Limit(NOW + 280, "MIGRATION_WAIT_SECONDS"),
    waiting_since=NOW - 20,
    recent=_HISTORY,
)
_MIGRATING = replace(_WAITING, phase=Phase.MIGRATING, instance="api-1", limit=Limit(NOW + 279, "MIGRATION_RUN_SECONDS"))
_BLOCKED = replace(_WAITING.lock_status, statement=Statement("ALTER TABLE", seconds=2.0), blocked_by=(_REPORT,))
_FREE = LockStatus(fleet=_FLEET[1:])
_DIRTY = replace(
    _BEHIND,
    state=SchemaState.DIRTY,
    half_applied=(HalfApplied("c1e581bee4c1", "CREATE INDEX CONCURRENTLY", ("ix_postings_account",)),),
)
_FAILED = replace(
    _WAITING,
    phase=Phase.FAILED,
    since=NOW - 65,
    limit=None,
    progress=Progress(0, 2, None, NOW - 80),
    lock_status=LockStatus(),
    error_class=RevisionFailed,
    message="revision c1e581bee4c1 failed and was rolled back: UniqueViolationError: the text is in the log",
    recent=(Recorded("c1e581bee4c1", "upgrade", "failed", "api-1", NOW - 66, 0.4), *_HISTORY),
    held=True,
)
STATES = {
    "waiting": _WAITING,
    "migrating": _MIGRATING,
    "computing": replace(_MIGRATING, lock_status=replace(_MIGRATING.lock_status, statement=None)),
    "blocked": replace(
        _WAITING,
        lock_status=_BLOCKED,
        blocked_since=NOW - 18,
        message=f"{explain(_BEHIND)}; {_BLOCKED}; waited 20 s",
    ),
    "between-tries": replace(
        _WAITING,
        progress=replace(_WAITING.progress, attempt=3, next_try_at=NOW + 4),
        lock_status=replace(
            _BLOCKED, statement=None, retry=Retry(3, 4.0), blocked_by=(replace(_REPORT, terminate_needs=None),)
        ),
        blocked_since=NOW - 18,
    ),
    "dirty": replace(
        _WAITING,
        schema=_DIRTY,
        lock_status=_FREE,
        progress=Progress(),
        message=f"{explain(_DIRTY)}; {_FREE}; waited 20 s",
    ),
    "failed-held": _FAILED,
    "ahead": replace(
        _WAITING,
        phase=Phase.READY,
        schema=Schema(
            SchemaState.AHEAD,
            frozenset({"99d2f3a1b0c4"}),
            frozenset({"4b7a91d0e6c3"}),
            unknown=frozenset({"99d2f3a1b0c4"}),
        ),
        lock_status=LockStatus(),
        progress=Progress(),
        limit=None,
    ),
    "unreachable": replace(
        _WAITING,
        schema=Schema(heads=_BEHIND.heads),
        reachable=False,
        unreachable_since=NOW - 45,
        read_at=None,
        error_class=DatabaseUnreachable,
        lock_status=LockStatus(),
        progress=Progress(),
        recent=(),
        message="waiting for the database: no connection while connecting: Connect call failed ('10.0.3.7', 5432)",
    ),
    "ready": replace(
        _WAITING,
        phase=Phase.READY,
        schema=Schema(SchemaState.AT_HEAD, frozenset({"4b7a91d0e6c3"}), frozenset({"4b7a91d0e6c3"})),
        lock_status=LockStatus(),
        progress=Progress(2, 2, None, NOW - 20),
        limit=None,
        last_run=LastRun("applied", "api-2", NOW - 20, NOW - 3, ("c1e581bee4c1", "4b7a91d0e6c3"), None, (16.1, 0.4)),
    ),
}
"""An instance of a service in each state that a person meets, at `NOW`."""
