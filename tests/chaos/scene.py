"""A fleet in the middle of a migration, with the faults that are to be undone later."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGKILL, Signals

from tests.chaos.lab import Lab
from tests.chaos.watch import Watch
from tests.support.evidence import history, running, sessions
from tests.support.fleet import Instance, fleet, one_on
from tests.support.pace import scaled
from tests.support.servers import Server
from tests.support.waiting import wait_until

SETTINGS = {
    # shorter than some stops, so that the server terminates the session of a stopped instance
    "MIGRATION_IDLE_SECONDS": f"{scaled(2):g}",
    "MIGRATION_WAIT_SECONDS": f"{scaled(120):g}",
    "MIGRATION_RUN_SECONDS": f"{scaled(60):g}",
}
LOST_TWICE = "the connection was lost twice while it ran"


@dataclass
class Scene:
    """The instances of a round, each on its own host if there are hosts.

    Attributes:
        stack: ends everything that is started.
        calm_at: when the last fault was over, or will be.
    """

    lab: Lab
    url: str
    ini: Path
    chance: random.Random
    stack: ExitStack
    watches: list[Watch] = field(default_factory=list)
    calm_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _dismissed: set[str] = field(default_factory=set)
    _timers: list[threading.Timer] = field(default_factory=list)

    @property
    def server(self) -> Server:
        """The server of all instances."""
        return self.lab.server

    def start(self, number: int = 1) -> None:
        """Start more instances."""
        for _ in range(number):
            first = len(self.watches) + 1
            self.watches.append(Watch(self.stack.enter_context(self._instance(first))[0]))
            self.stack.callback(self.watches[-1].close)

    def _instance(self, number: int) -> AbstractContextManager[list[Instance]]:
        host = self.lab.host(number)
        if host is None:
            return fleet(1, self.url, ini=self.ini, first=number, **SETTINGS)
        return one_on(host, f"api-{number}", self.url, self.ini, **SETTINGS)

    def living(self) -> list[Instance]:
        """Return the instances that run and were not told to exit."""
        return [i for i in self._kept() if i.process.poll() is None]

    def ended(self) -> list[Instance]:
        """Return the instances that exited without being told to."""
        return [i for i in self._kept() if i.process.poll() is not None]

    def lingering(self) -> list[Instance]:
        """Return the instances that were told to exit and still run."""
        gone = (w.instance for w in self.watches if w.instance.name in self._dismissed)
        return [i for i in gone if i.process.poll() is None]

    def _kept(self) -> list[Instance]:
        return [w.instance for w in self.watches if w.instance.name not in self._dismissed]

    def holder(self) -> Instance:
        """Return the lock holder by its session's name; without one, the first running instance."""
        names = {name.rpartition(":")[2] for name in sessions(self.url) if ":migrating:" in name}
        living = self.living()
        return next((i for i in living if i.name in names), living[0])

    def waiter(self) -> Instance:
        """Return an instance other than the lock holder, if there is one."""
        holder = self.holder()
        return self.chance.choice([i for i in self.living() if i is not holder] or [holder])

    def replace(self, instance: Instance, number: Signals) -> None:
        """Send an instance a signal that ends it, and start another one as a supervisor does."""
        self._dismissed.add(instance.name)
        instance.kill(number)
        if number is SIGKILL:
            instance.process.wait()
        self.start()

    def start_again(self) -> int:
        """Replace the instances that failed because a revision lost its connection twice; return how many.

        Two faults in one revision look like a revision that ends its own session, so failing is right then.
        """
        failed = [instance for instance in self.ended() if LOST_TWICE in instance.log()]
        self._dismissed |= {instance.name for instance in failed}
        self.start(len(failed))
        return len(failed)

    def later(self, seconds: float, undo: Callable[[], object]) -> None:
        """Undo a fault after a while; the round does not end before."""
        timer = threading.Timer(seconds, undo)
        self._timers.append(timer)
        self.calm_at = max(self.calm_at, datetime.now(UTC) + timedelta(seconds=seconds))
        timer.start()

    def calm(self) -> None:
        """Wait until every fault is over."""
        for timer in self._timers:
            timer.join()

    def all_ready(self) -> bool:
        """Return whether every running instance has been ready."""
        living = {i.name for i in self.living()}
        return all(w.ready_at for w in self.watches if w.instance.name in living)

    def until_an_instance_migrates(self, seconds: float) -> None:
        """Wait until a revision runs, or until all instances are ready: then a fault hits a fleet that serves."""
        wait_until(lambda: bool(running(self.url)) or self.all_ready(), "an instance migrates", seconds=seconds)

    def keep(self) -> Path:
        """Keep the logs of all instances and of the server, and return their folder."""
        folder = Path(tempfile.mkdtemp(prefix="chaos-kept-"))
        for watch in self.watches:
            (folder / f"{watch.instance.name}.log").write_text(watch.instance.log())
        (folder / "history").write_text("\n".join(map(str, history(self.url))))
        if self.server.process:
            (folder / "server.log").write_bytes(self.server.process.log.read_bytes())
        return folder
