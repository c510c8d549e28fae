"""What is done to a fleet while it migrates. Each fault returns once it has been done; some are undone later."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

from tests.chaos.scene import Scene
from tests.support.fleet import Instance
from tests.support.servers import fetch_sync

STOPPED_SECONDS = (1.0, 4.0)
"""Shorter and longer than the idle limit of the fleet, at which the server ends the session of the one that stopped."""

CUT_SECONDS = (2.0, 6.0, 20.0)
"""Shorter and longer than what the server waits for a client that does not acknowledge (15 s)."""


def kill_holder(scene: Scene) -> None:
    """SIGKILL the one that migrates; a supervisor starts another."""
    scene.replace(scene.holder(), SIGKILL)


def kill_waiter(scene: Scene) -> None:
    """SIGKILL one that waits; a supervisor starts another."""
    scene.replace(scene.waiter(), SIGKILL)


def end_holder(scene: Scene) -> None:
    """SIGTERM to the one that migrates, as in a deploy; a supervisor starts another."""
    scene.replace(scene.holder(), SIGTERM)


def stop_holder(scene: Scene) -> None:
    """SIGSTOP the one that migrates, SIGCONT it later."""
    _stop(scene, scene.holder())


def stop_waiter(scene: Scene) -> None:
    """SIGSTOP one that waits, SIGCONT it later."""
    _stop(scene, scene.waiter())


def _stop(scene: Scene, instance: Instance) -> None:
    instance.kill(SIGSTOP)
    scene.later(scene.chance.choice(STOPPED_SECONDS), lambda: instance.process.send_signal(SIGCONT))


def cut_off_holder(scene: Scene) -> None:
    """Drop every packet between the server and the host of the one that migrates, for a while."""
    _cut_off(scene, scene.holder())


def cut_off_waiter(scene: Scene) -> None:
    """Drop every packet between the server and the host of one that waits, for a while."""
    _cut_off(scene, scene.waiter())


def _cut_off(scene: Scene, instance: Instance) -> None:
    assert instance.host, "chosen only where every instance has a host of its own"
    cut = ExitStack()
    cut.enter_context(instance.host.cut_off(scene.server.port))
    scene.later(scene.chance.choice(CUT_SECONDS), cut.close)


def terminate_holder(scene: Scene) -> None:
    """End the migrating session from the server's side."""
    _terminate(scene, "migrating")


def terminate_waiters(scene: Scene) -> None:
    """End every waiting session from the server's side."""
    _terminate(scene, "waiting")


def _terminate(scene: Scene, role: str) -> None:
    fetch_sync(
        scene.url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE application_name LIKE 'migrations:%:{role}:%' AND datname = current_database()",
    )


def restart_server(scene: Scene) -> None:
    """Stop the server in order and start it again."""
    scene.server.restart("fast")


def crash_server(scene: Scene) -> None:
    """Let the server leave at once, as in a crash, and start it again."""
    scene.server.restart("immediate")


Fault = Callable[[Scene], None]

FAULTS: tuple[Fault, ...] = (
    kill_holder,
    kill_waiter,
    end_holder,
    stop_holder,
    stop_waiter,
    terminate_holder,
    terminate_waiters,
    restart_server,
    crash_server,
)
NETWORK_FAULTS: tuple[Fault, ...] = (cut_off_holder, cut_off_waiter)
"""Only where every instance has a network of its own."""
