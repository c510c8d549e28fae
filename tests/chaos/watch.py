"""A watch on an instance's readiness: readiness before the schema is at head breaks a promise."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

from tests.support.fleet import Instance

EVERY_SECONDS = 0.1


class Watch:
    """Requests one instance's readiness in a thread until it is ready or has exited.

    Attributes:
        ready_at: when its first "ready" had arrived; None before.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.ready_at: datetime | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name=f"watch {instance.name}")
        self._thread.start()

    def close(self) -> None:
        """Stop asking."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(EVERY_SECONDS) and self.instance.process.poll() is None:
            if self.instance.ready():
                self.ready_at = datetime.now(UTC)
                return
