"""The lock holder is killed, stopped or told to exit."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from signal import SIGKILL, SIGSTOP, SIGTERM

from devtools.ports import HOST, free_port
from tests.chaos.lab import Lab
from tests.chaos.recipe.crew import Crew, at_work, dead, holder_and_peer, holders, most, state, until, waiting, within
from tests.chaos.recipe.scenario import scenario
from tests.chaos.recipe.trees import BUILD, FULL_TABLE, SLOW_TABLE, TABLE, asleep, long, tree
from tests.chaos.recipe.trouble import reading
from tests.support.evidence import executing
from tests.support.fleet import environment

PATIENCE_SECONDS = 20.0


@scenario("1", "SIGKILL between two statements")
def killed_between_statements(_: Lab, crew: Crew) -> str:
    """The session ends with the process: the peer acquires the lock."""
    ini = tree(crew.folder / "tree", asleep(crew.folder))
    holder = crew.start(ini)
    until((crew.folder / "asleep").exists, "one in its revision")
    crew.start(ini)
    until(lambda: waiting(crew.url) == 1, "one waiting")
    before = holders(crew.url)
    holder.process.send_signal(SIGKILL)
    took = within(PATIENCE_SECONDS, lambda: holders(crew.url) not in ([], before))
    return "the lock was not free in time" if took is None else f"good: the peer had the lock after {took:.1f} s"


@scenario("2", "SIGKILL inside a statement of 10 s")
def killed_in_a_statement(_: Lab, crew: Crew) -> str:
    """The server does not notice the kill: the statement continues and keeps the lock."""
    holder, _peer = holder_and_peer(crew, TABLE, long(10))
    before = holders(crew.url)
    holder.process.send_signal(SIGKILL)
    took = within(PATIENCE_SECONDS, lambda: holders(crew.url) not in ([], before))
    return f"the dead one keeps the lock for {took or PATIENCE_SECONDS:.1f} s, the rest of the statement"


@scenario("2, 17", "the same, the lock on a connection of its own")
def killed_with_the_lock_beside(_: Lab, crew: Crew) -> str:
    """The lock is released at once while the statement continues."""
    holder, _peer = holder_and_peer(crew, TABLE, long(10), lock="beside")
    holder.process.send_signal(SIGKILL)
    return f"{most(PATIENCE_SECONDS, lambda: at_work(crew.url), 2)} migrators inside the same statement at once"


@scenario("3, 4", "SIGKILL inside CREATE INDEX CONCURRENTLY IF NOT EXISTS, the lock beside")
def killed_in_an_index(_: Lab, crew: Crew) -> str:
    """The index build continues in the server, while the peer may already report success."""
    ini = _building(crew, 8)
    peer = crew.start(ini, "--lock", "beside")
    until(lambda: waiting(crew.url) == 1, "one waiting")
    crew.members[-2].process.send_signal(SIGKILL)
    code = peer.code(PATIENCE_SECONDS)
    builds = "while the dead one still builds" if executing(crew.url, "CREATE INDEX") else "after the dead one's build"
    return f"the peer ends with {code} {builds}: {state(crew.url)}"


@scenario("3", "SIGKILL inside CREATE INDEX CONCURRENTLY without IF NOT EXISTS, then started again twice")
def killed_in_a_plain_index(_: Lab, crew: Crew) -> str:
    """The index build finishes without its client, and its revision is not recorded."""
    ini = _building(crew, 3, BUILD.replace(" IF NOT EXISTS", ""))
    crew.members[-1].kill()
    until(lambda: not executing(crew.url, "CREATE INDEX"), "the end of the build")
    again = [crew.start(ini) for _ in range(2)]
    return f"{dead(again)} of 2 starts dead ({again[0].error()}), {state(crew.url)}"


@scenario("3, 4, 32", "the server crashes inside it, and the instance is started again")
def crashed_in_an_index(lab: Lab, crew: Crew) -> str:
    """IF NOT EXISTS silently keeps the INVALID index."""
    ini = _building(crew, 3)
    lab.server.restart("immediate")
    crew.members[-1].code()
    again = crew.start(ini)
    return f"ends with {again.code()}: {state(crew.url)}, for good"


def _building(crew: Crew, seconds: float, build: str = BUILD) -> Path:
    ini = tree(crew.folder / "tree", FULL_TABLE, build)
    assert crew.start(tree(crew.folder / "before", FULL_TABLE)).code() == 0
    reading(crew.url, "t", seconds)
    crew.start(ini, "--lock", "beside")
    until(lambda: executing(crew.url, "CREATE INDEX"), "one that builds")
    return ini


@scenario("5", "6 instances, one CREATE INDEX CONCURRENTLY IF NOT EXISTS")
def index_with_peers(_: Lab, crew: Crew) -> str:
    """The index build waits for the snapshots of the waiters."""
    ini = tree(crew.folder / "tree", SLOW_TABLE, BUILD)
    members = [crew.start(ini) for _ in range(6)]
    failed = dead(members)
    errors = {member.error() for member in members if member.process.returncode}
    return f"{failed} of 6 dead ({', '.join(errors) or 'no error'}), {state(crew.url)}"


@scenario("6, 25", "SIGSTOP of the one that migrates")
def stopped(_: Lab, crew: Crew) -> str:
    """The server keeps the session of a stopped process, and with it the lock."""
    holder, peer = holder_and_peer(crew, TABLE, long(1))
    holder.process.send_signal(SIGSTOP)
    took = within(PATIENCE_SECONDS, lambda: peer.process.poll() is not None)
    said = peer.last_words() or "nothing"
    stuck = f"stuck: held after {PATIENCE_SECONDS:.0f} s; the peer says {said}"
    return stuck if took is None else f"went on after {took:.1f} s"


@scenario("12, 13", "SIGTERM to an application that migrates in its lifespan, statement of 8 s")
def asked_to_end(_: Lab, crew: Crew) -> str:
    """Uvicorn handles SIGTERM only after the lifespan has started up."""
    ini, port = tree(crew.folder / "tree", TABLE, long(8)), free_port()
    words = [sys.executable, "-m", "uvicorn", "tests.chaos.recipe.app:app", "--host", HOST, "--port", str(port)]
    member = crew.run(words, **environment(None, RECIPE_URL=crew.url, RECIPE_INI=str(ini)))
    until(lambda: at_work(crew.url) == 1, "one at work")
    with socket.socket() as probe:
        port_is = "open" if probe.connect_ex((HOST, port)) == 0 else "closed"
    member.process.send_signal(SIGTERM)
    began = time.monotonic()
    member.code()
    return f"port {port_is} to probes; SIGTERM ignored for {time.monotonic() - began:.1f} s, until it was done"
