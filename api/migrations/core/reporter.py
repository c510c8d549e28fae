"""Reports the progress of a run: to the status for probes, and to the log for people."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from .schema import Observed, Schema, SchemaState, invalid_index_advice
from .status import Blocker, LastRun, LockStatus, Phase, Progress, Statement, Tracker

log = logging.getLogger(__name__)

LOG_EVERY_SECONDS = 10.0
"""How often the blocking sessions, and the progress of batches, are logged."""


class ProgressReporter:
    """A `ProgressListener` of this instance's run; infers the progress of another instance's from the schema."""

    def __init__(self, tracker: Tracker) -> None:
        self.time_is_up = False
        """Whether the run's time limit has passed, and the run is about to be cancelled."""
        self._tracker = tracker
        self._announced = False
        self._verb = "Applied"
        self._scope: str | None = None
        self._applied: list[str] = []
        self._earlier = 0
        self._seconds: list[float] = []
        self._step_started = 0.0
        self._blocked_logged = self._batches_logged = float("-inf")
        self._attempt: int | None = None
        self._batches: Statement | None = None

    def enter(self, scope: str | None) -> None:
        """Begin with the next of several version tables; its progress is counted by itself."""
        if scope != self._scope:
            self._scope, self._announced, self._earlier = scope, False, len(self._applied)
            self._tracker.note(progress=Progress())

    def planned(self, revisions: tuple[str, ...], verb: str) -> None:
        """Report the start of the run, or its continuation after a contended step."""
        self._verb = verb
        done, status = len(self._applied) - self._earlier, self._tracker.status
        before = status.progress.started_at
        # a run that waited for a table continues in its phase; an earlier start is that of another instance's run
        started = before if before is not None and (done or before >= status.since) else time.time()
        self._tracker.note(progress=Progress(done, done + len(revisions), None, started, self._attempt))
        if revisions and not self._announced:
            self._announced = True
            where = f": {self._scope}" if self._scope else ""
            log.info("Running migrations%s", where, extra={"event": "run_started", "revisions": revisions})

    def started(self, revision: str) -> None:
        """Report the start of a step."""
        self._step_started = time.monotonic()
        self._tracker.note(progress=replace(self._tracker.status.progress, current=revision))

    def finished(self, revision: str) -> None:
        """Report a committed step."""
        self._applied.append(revision)
        self._attempt = None
        seconds, status = time.monotonic() - self._step_started, self._tracker.status
        self._seconds.append(seconds)
        done, total = len(self._applied) - self._earlier, status.progress.total
        self._tracker.note(
            message=None,
            lock_status=replace(status.lock_status, blocked_by=(), statement=None),
            progress=replace(status.progress, applied=done, current=None, attempt=None, next_try_at=None),
            counters=replace(status.counters, step_seconds=(*status.counters.step_seconds, seconds)),
        )
        extra = {"event": "revision_applied", "revision": revision, "seconds": seconds}
        log.info("%s %s (%d of %d) in %.2f s", self._verb, revision, done, total, seconds, extra=extra)

    async def between(self) -> None:
        """Wait for the cancellation of a run whose time limit has passed: no further revision begins."""
        if self.time_is_up:
            await asyncio.Event().wait()

    def undone(self) -> None:
        """Report that all finished steps were rolled back."""
        del self._applied[self._earlier :], self._seconds[self._earlier :]
        self._tracker.note(progress=replace(self._tracker.status.progress, applied=0))

    def progressed(self, batches: Statement | None) -> None:
        """Report the progress of a step that runs in batches; log it at most every 10 s."""
        status, self._batches, self._attempt = self._tracker.status, batches, None
        self._tracker.note(
            message=None,
            lock_status=replace(status.lock_status, blocked_by=(), statement=batches),
            progress=replace(status.progress, attempt=None, next_try_at=None),
        )
        now = time.monotonic()
        if batches is not None and now - self._batches_logged >= LOG_EVERY_SECONDS:
            self._batches_logged = now
            extra = {"event": "backfill", "revision": status.progress.current, "rows": batches.rows}
            log.info("%s: %s", status.progress.current, batches, extra=extra)

    def contended(self, revision: str, attempt: int, seconds: float, blockers: Sequence[Blocker] | None) -> None:
        """Report that a step did not acquire its table lock and is retried."""
        blockers = self._tracker.status.lock_status.blocked_by if blockers is None else blockers
        blocking = "; ".join(one.said("blocked") for one in blockers) or "no blocking session was visible"
        # the time of the next attempt is a field of its own: the message outlives it
        message = f"{revision} did not acquire its table lock (attempt {attempt}): {blocking}"
        self._attempt, status = attempt, self._tracker.status
        progress = replace(status.progress, current=revision, attempt=attempt, next_try_at=time.time() + seconds)
        lock_status = replace(status.lock_status, blocked_by=tuple(blockers), statement=None)
        counters = replace(status.counters, contended=status.counters.contended + 1)
        self._tracker.note(message=message, progress=progress, lock_status=lock_status, counters=counters)
        extra = {"event": "lock_contended", "revision": revision, "attempt": attempt}
        log.warning("%s; retry in %.1f s; %s", message, seconds, self._countdown(), extra=extra)

    def observed(self, lock_status: LockStatus) -> None:
        """Show the lock status during a statement, and log its blockers at most every 10 s."""
        lock_status = replace(lock_status, statement=self._batches or lock_status.statement)
        self._tracker.note(lock_status=lock_status)
        now = time.monotonic()
        if lock_status.blocked_by and now - self._blocked_logged >= LOG_EVERY_SECONDS:
            self._blocked_logged = now
            current = self._tracker.status.progress.current
            extra = {"event": "blocked", "revision": current}
            log.warning("%s waits: %s; %s", current or "The run", lock_status, self._countdown(), extra=extra)

    def invalid(self, indexes: Sequence[str]) -> None:
        """Report the INVALID indexes before or after the run."""
        if indexes and tuple(indexes) != self._tracker.status.invalid_indexes:
            extra = {"event": "invalid_indexes", "indexes": tuple(indexes)}
            log.warning("%s", invalid_index_advice(indexes), extra=extra)
        self._tracker.note(invalid_indexes=tuple(indexes))

    def dropped(self, index: str) -> None:
        """Report that an INVALID index of an earlier attempt was dropped."""
        log.warning("Dropped the INVALID index %s", index, extra={"event": "invalid_index_dropped", "index": index})

    def ended(self, result: str, error: str | None = None) -> None:
        """Report the end of this instance's run."""
        status = self._tracker.status
        failed = status.progress.current if result == "failed" else None
        began, done = status.progress.started_at, tuple(self._applied)
        run = LastRun(result, status.instance, began, time.time(), done, error, tuple(self._seconds), failed)
        self._tracker.note(last_run=run, progress=replace(status.progress, current=None))
        self._count(result)

    def interrupted(self) -> None:
        """Count a run that lost its session or released the lock; an instance retries it."""
        self._count("interrupted")

    def schema_read(self, observed: Observed, shown: Schema, name: str | None) -> None:
        """Show what was read from the database; `name` is the scope's if there are several."""
        status = self._tracker.status
        self._tracker.note(
            schema=shown,
            scopes=status.scopes if name is None else {**status.scopes, name: shown},
            reachable=True,
            error_class=None,
            read_at=time.time(),
            last_success=observed.last_success,
            last_failure=observed.last_failure,
            recent=observed.recent,
        )
        if status.phase is not Phase.VERIFYING:
            self.infer_progress(shown)

    def infer_progress(self, schema: Schema) -> None:
        """Infer the progress of another instance's run from the version table."""
        progress = self._tracker.status.progress
        if schema.state in {SchemaState.EMPTY, SchemaState.BEHIND}:
            total, current = max(progress.total, len(schema.pending)), schema.pending[0]
            started = progress.started_at or time.time()
            tries = (progress.attempt, progress.next_try_at) if current == progress.current else (None, None)
            self._tracker.note(progress=Progress(total - len(schema.pending), total, current, started, *tries))
        elif schema.state is SchemaState.AT_HEAD:
            self._tracker.note(progress=replace(progress, applied=progress.total, current=None))

    def _countdown(self) -> str:
        from .countdown import countdown  # a start at head does not need it

        return countdown(self._tracker.status, time.time())

    def _count(self, result: str) -> None:
        counters = self._tracker.status.counters
        self._tracker.note(counters=replace(counters, runs=(*counters.runs, result)))
