"""The faults that a fleet suffers while it migrates; each returns once it happened, and some are undone later."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

from tests.chaos.scene import Scene
from tests.support.fleet import Instance
from tests.support.servers import fetch_sync

STOPPED_SECONDS = (1.0, 4.0)
"""Shorter and longer than the fleet's idle limit, at which the server terminates a stopped instance's session."""

CUT_SECONDS = (2.0, 6.0, 20.0)
"""Shorter and longer than what the server waits for a client that does not acknowledge (15 s)."""


def kill_holder(scene: Scene) -> None:
    """Kill the lock holder with SIGKILL; a supervisor starts another instance."""
    scene.replace(scene.holder(), SIGKILL)


def kill_waiter(scene: Scene) -> None:
    """Kill a waiter with SIGKILL; a supervisor starts another instance."""
    scene.replace(scene.waiter(), SIGKILL)


def end_holder(scene: Scene) -> None:
    """Send the lock holder SIGTERM, as a deploy does; a supervisor starts another instance."""
    scene.replace(scene.holder(), SIGTERM)


def stop_holder(scene: Scene) -> None:
    """Stop the lock holder with SIGSTOP, and continue it later."""
    _stop(scene, scene.holder())


def stop_waiter(scene: Scene) -> None:
    """Stop a waiter with SIGSTOP, and continue it later."""
    _stop(scene, scene.waiter())


def _stop(scene: Scene, instance: Instance) -> None:
    instance.kill(SIGSTOP)
    scene.later(scene.chance.choice(STOPPED_SECONDS), lambda: instance.process.send_signal(SIGCONT))


def cut_off_holder(scene: Scene) -> None:
    """Drop every packet between the server and the lock holder's host for a while."""
    _cut_off(scene, scene.holder())


def cut_off_waiter(scene: Scene) -> None:
    """Drop every packet between the server and a waiter's host for a while."""
    _cut_off(scene, scene.waiter())


def _cut_off(scene: Scene, instance: Instance) -> None:
    assert instance.host, "chosen only where every instance has a host of its own"
    cut = ExitStack()
    cut.enter_context(instance.host.cut_off(scene.server.port))
    scene.later(scene.chance.choice(CUT_SECONDS), cut.close)


def terminate_holder(scene: Scene) -> None:
    """Terminate the lock holder's session in the server."""
    _terminate(scene, "migrating")


def terminate_waiters(scene: Scene) -> None:
    """Terminate every waiter's session in the server."""
    _terminate(scene, "waiting")


def _terminate(scene: Scene, role: str) -> None:
    fetch_sync(
        scene.url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE application_name LIKE 'migrations:%:{role}:%' AND datname = current_database()",
    )


def restart_server(scene: Scene) -> None:
    """Stop the server with a fast shutdown and start it again."""
    scene.server.restart("fast")


def crash_server(scene: Scene) -> None:
    """Stop the server immediately, like a crash, and start it again."""
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
"""Possible only if every instance has its own network."""
