"""What is done to a fleet while it migrates. Each fault returns once it has been done."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from signal import SIGCONT, SIGKILL, SIGSTOP

from tests.acceptance.evidence import sessions
from tests.acceptance.fleet import Instance
from tests.servers import Server, fetch_sync

STOPPED_SECONDS = 4.0
"""Longer than the idle limit that the fleet runs with, so that the server ends the one that was stopped."""


@dataclass
class Scene:
    """A fleet in the middle of a migration."""

    server: Server
    url: str
    instances: list[Instance]
    start_another: Callable[[], None]
    timers: list[threading.Timer] = field(default_factory=list)

    def holder(self) -> Instance:
        """The instance that migrates, by its session's name; any one that lives if nobody does."""
        living = [i for i in self.instances if i.process.poll() is None]
        names = {name.rpartition(":")[2] for name in sessions(self.url) if ":migrating:" in name}
        return next((i for i in living if i.name in names), random.choice(living))


def kill_holder(scene: Scene) -> None:
    """SIGKILL the one that migrates; a supervisor starts another."""
    scene.holder().kill(SIGKILL)
    scene.start_another()


def stop_holder(scene: Scene) -> None:
    """SIGSTOP the one that migrates, and SIGCONT it when its successor is at work."""
    holder = scene.holder()
    holder.kill(SIGSTOP)
    timer = threading.Timer(STOPPED_SECONDS, holder.process.send_signal, [SIGCONT])
    scene.timers.append(timer)
    timer.start()


def terminate_backend(scene: Scene) -> None:
    """End the migrating session from the server's side."""
    fetch_sync(
        scene.url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name LIKE 'migrations:%:migrating:%' AND datname = current_database()",
    )


def cut_waiters(scene: Scene) -> None:
    """End every waiting session from the server's side."""
    fetch_sync(
        scene.url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name LIKE 'migrations:%:waiting:%' AND datname = current_database()",
    )


def restart_server(scene: Scene) -> None:
    """Stop the server in order and start it again."""
    scene.server.restart("fast")


def crash_server(scene: Scene) -> None:
    """Let the server leave at once, as in a crash, and start it again."""
    scene.server.restart("immediate")


FAULTS: tuple[Callable[[Scene], None], ...] = (
    kill_holder,
    stop_holder,
    terminate_backend,
    cut_waiters,
    restart_server,
    crash_server,
)
