"""What a run reports while it goes: into the status for probes, into the log for people."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from .schema import Schema, SchemaState, rebuild
from .state import Blocker, LastRun, Progress, Tracker

log = logging.getLogger(__name__)


class Reporter:
    """Hears of the steps of this instance's own run, and infers those of another's from what it sees."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._announced = False
        self._verb = "Applied"
        self._applied: list[str] = []
        self._step_started = 0.0

    def planned(self, revisions: tuple[str, ...], verb: str) -> None:
        """The run begins, or goes on after a step that did not get its lock."""
        self._verb = verb
        done = len(self._applied)
        started = self._tracker.status.progress.started_at if done else time.time()
        self._tracker.note(progress=Progress(done, done + len(revisions), None, started))
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
        self._tracker.note(message=None, blocked_by=())
        progress = self._tracker.status.progress
        self._tracker.note(progress=replace(progress, applied=len(self._applied), current=None))
        seconds = time.monotonic() - self._step_started
        log.info(
            "%s %s (%d of %d) in %.2f s",
            self._verb,
            revision,
            len(self._applied),
            progress.total,
            seconds,
            extra={"event": "revision_applied", "revision": revision, "seconds": seconds},
        )

    def contended(self, revision: str, attempt: int, seconds: float, blockers: Sequence[Blocker]) -> None:
        """A step did not get its lock; it is tried again."""
        who = "; ".join(map(str, blockers)) or "somebody who was gone when we looked"
        message = f"{revision} did not get its lock (attempt {attempt}): {who}; next try in {seconds:.1f} s"
        self._tracker.note(message=message, blocked_by=tuple(blockers))
        log.warning("%s", message, extra={"event": "lock_contended", "revision": revision, "attempt": attempt})

    def invalid(self, indexes: Sequence[str]) -> None:
        """INVALID indexes before or after the run."""
        if indexes and tuple(indexes) != self._tracker.status.invalid_indexes:
            log.warning("%s", rebuild(indexes), extra={"event": "invalid_indexes", "indexes": tuple(indexes)})
        self._tracker.note(invalid_indexes=tuple(indexes))

    def dropped(self, index: str) -> None:
        """An INVALID index of an earlier try is gone."""
        log.warning("Dropped the INVALID index %s", index, extra={"event": "invalid_index_dropped", "index": index})

    def ended(self, result: str, error: str | None = None) -> None:
        """This instance's run is over."""
        status = self._tracker.status
        run = LastRun(result, status.instance, status.progress.started_at, time.time(), tuple(self._applied), error)
        self._tracker.note(last_run=run, progress=replace(status.progress, current=None))

    def saw(self, schema: Schema) -> None:
        """Somebody else's run, as far as the version table shows it."""
        progress = self._tracker.status.progress
        if schema.state in {SchemaState.EMPTY, SchemaState.BEHIND}:
            total = max(progress.total, len(schema.pending))
            started = progress.started_at or time.time()
            self._tracker.note(progress=Progress(total - len(schema.pending), total, schema.pending[0], started))
        elif schema.state is SchemaState.AT_HEAD:
            self._tracker.note(progress=replace(progress, applied=progress.total, current=None))
