"""What a run reports while it goes: into the status for probes, into the log for people."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from .schema import Schema, SchemaState, invalid_index_advice
from .status import Blocker, LastRun, LockStatus, Progress, Tracker

log = logging.getLogger(__name__)

BLOCKED_EVERY_SECONDS = 10.0


class ProgressReporter:
    """Hears of the steps of this instance's own run, and infers those of another's from what it sees."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._announced = False
        self._verb = "Applied"
        self._applied: list[str] = []
        self._seconds: list[float] = []
        self._step_started = 0.0
        self._blocked_logged = float("-inf")
        self._attempt: int | None = None

    def planned(self, revisions: tuple[str, ...], verb: str) -> None:
        """The run begins, or goes on after a step that did not get its lock."""
        self._verb = verb
        done, before = len(self._applied), self._tracker.status.progress
        started = before.started_at if done else time.time()
        self._tracker.note(progress=Progress(done, done + len(revisions), None, started, self._attempt))
        if revisions and not self._announced:
            self._announced = True
            log.info("Running migrations", extra={"event": "run_started", "revisions": revisions})

    def started(self, revision: str) -> None:
        """A step begins."""
        self._step_started = time.monotonic()
        self._tracker.note(progress=replace(self._tracker.status.progress, current=revision))

    def finished(self, revision: str) -> None:
        """A step is committed."""
        self._applied.append(revision)
        self._attempt = None
        progress, lock_status = self._tracker.status.progress, self._tracker.status.lock_status
        progress = replace(progress, applied=len(self._applied), current=None, attempt=None, next_try_at=None)
        self._tracker.note(
            message=None, lock_status=replace(lock_status, blocked_by=(), statement=None), progress=progress
        )
        seconds = time.monotonic() - self._step_started
        tally = self._tracker.status.tally
        self._tracker.note(tally=replace(tally, step_seconds=(*tally.step_seconds, seconds)))
        self._seconds.append(seconds)
        log.info(
            "%s %s (%d of %d) in %.2f s",
            self._verb,
            revision,
            len(self._applied),
            progress.total,
            seconds,
            extra={"event": "revision_applied", "revision": revision, "seconds": seconds},
        )

    def undone(self) -> None:
        """What was finished is not there any more."""
        self._applied.clear()
        self._seconds.clear()
        self._tracker.note(progress=replace(self._tracker.status.progress, applied=0))

    def contended(self, revision: str, attempt: int, seconds: float, blockers: Sequence[Blocker]) -> None:
        """A step did not get its lock; it is tried again."""
        who = "; ".join(map(str, blockers)) or "somebody who was not to be seen"
        message = f"{revision} did not get its lock (attempt {attempt}): {who}; next try in {seconds:.1f} s"
        self._attempt, status = attempt, self._tracker.status
        progress = replace(status.progress, current=revision, attempt=attempt, next_try_at=time.time() + seconds)
        lock_status = replace(status.lock_status, blocked_by=tuple(blockers), statement=None)
        tally = replace(status.tally, contended=status.tally.contended + 1)
        self._tracker.note(message=message, progress=progress, lock_status=lock_status, tally=tally)
        log.warning("%s", message, extra={"event": "lock_contended", "revision": revision, "attempt": attempt})

    def observed(self, lock_status: LockStatus) -> None:
        """Seen while a statement lasts; who is in the way of it is said now and then."""
        self._tracker.note(lock_status=lock_status)
        now = time.monotonic()
        if lock_status.blocked_by and now - self._blocked_logged >= BLOCKED_EVERY_SECONDS:
            self._blocked_logged = now
            current = self._tracker.status.progress.current
            log.warning(
                "%s waits: %s", current or "The run", lock_status, extra={"event": "blocked", "revision": current}
            )

    def invalid(self, indexes: Sequence[str]) -> None:
        """INVALID indexes before or after the run."""
        if indexes and tuple(indexes) != self._tracker.status.invalid_indexes:
            log.warning(
                "%s", invalid_index_advice(indexes), extra={"event": "invalid_indexes", "indexes": tuple(indexes)}
            )
        self._tracker.note(invalid_indexes=tuple(indexes))

    def dropped(self, index: str) -> None:
        """An INVALID index of an earlier try is gone."""
        log.warning("Dropped the INVALID index %s", index, extra={"event": "invalid_index_dropped", "index": index})

    def ended(self, result: str, error: str | None = None) -> None:
        """This instance's run is over."""
        status = self._tracker.status
        failed = status.progress.current if result == "failed" else None
        began, done = status.progress.started_at, tuple(self._applied)
        run = LastRun(result, status.instance, began, time.time(), done, error, tuple(self._seconds), failed)
        self._tracker.note(last_run=run, progress=replace(status.progress, current=None))
        self._count(result)

    def interrupted(self) -> None:
        """This instance's run lost its session, or gave the lock back; it is begun again, here or elsewhere."""
        self._count("interrupted")

    def saw(self, schema: Schema) -> None:
        """Somebody else's run, as far as the version table shows it."""
        progress = self._tracker.status.progress
        if schema.state in {SchemaState.EMPTY, SchemaState.BEHIND}:
            total, current = max(progress.total, len(schema.pending)), schema.pending[0]
            started = progress.started_at or time.time()
            tries = (progress.attempt, progress.next_try_at) if current == progress.current else (None, None)
            self._tracker.note(progress=Progress(total - len(schema.pending), total, current, started, *tries))
        elif schema.state is SchemaState.AT_HEAD:
            self._tracker.note(progress=replace(progress, applied=progress.total, current=None))

    def _count(self, result: str) -> None:
        tally = self._tracker.status.tally
        self._tracker.note(tally=replace(tally, runs=(*tally.runs, result)))
