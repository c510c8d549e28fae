"""A host vanishes without notice to the server, or an answer is lost."""

from __future__ import annotations

from tests.chaos.lab import Lab
from tests.chaos.recipe.crew import Crew, Member, at_work, holders, state, until, waiting, within
from tests.chaos.recipe.scenario import scenario
from tests.chaos.recipe.trees import TABLE, asleep, long, tree
from tests.chaos.recipe.trouble import commits_without_answer
from tests.support.servers import fetch_sync, optional
from tests.support.vanishing import Namespace

VANISHED_SECONDS = 26.0
FORGOTTEN_SECONDS = 20.0


def _host(lab: Lab) -> Namespace:
    return lab.host(0) or optional("network namespaces", "run as root, apt-get install iproute2 iptables")


@scenario("7", "its host vanishes between two statements")
def vanished_idle(lab: Lab, crew: Crew) -> str:
    """The host of an idle lock holder vanishes: the server's keepalives start after two hours."""
    host = _host(lab)
    crew.start(tree(crew.folder / "tree", asleep(crew.folder)), host=host)
    until((crew.folder / "asleep").exists, "one in its revision")
    return _held_after(lab, crew, host)


@scenario("8, 10", "its host vanishes inside a long statement")
def vanished_busy(lab: Lab, crew: Crew) -> str:
    """The host of a busy lock holder vanishes, and the server does not notice."""
    host = _host(lab)
    member = crew.start(tree(crew.folder / "tree", TABLE, long(600)), host=host)
    until(lambda: at_work(crew.url) == 1, "one at work")
    line = _held_after(lab, crew, host)
    return line + (", its client still waits for the answer" if member.process.poll() is None else "")


def _held_after(lab: Lab, crew: Crew, host: Namespace) -> str:
    with host.cut_off(lab.server.port):
        took = within(VANISHED_SECONDS, lambda: not holders(crew.url))
    default = fetch_sync(crew.url, "SELECT current_setting('tcp_keepalives_idle')")[0][0]
    still = f"held after {VANISHED_SECONDS:.0f} s (the server begins to probe after {default or 7200} s)"
    return still if took is None else f"free after {took:.1f} s"


@scenario("9", "the network forgets its connection in a statement of 4 s")
def forgotten_flow(lab: Lab, crew: Crew) -> str:
    """The network drops the answer to a statement: client and server wait for each other."""
    host = _host(lab)
    member = crew.start(tree(crew.folder / "tree", TABLE, long(4)), host=host)
    until(lambda: at_work(crew.url) == 1, "one at work")
    with host.cut_off(lab.server.port):
        until(lambda: at_work(crew.url) == 0, "the end of the statement")
        took = within(FORGOTTEN_SECONDS, lambda: not holders(crew.url) or member.process.poll() is not None)
    if took is not None:
        return f"noticed after {took:.1f} s"
    return f"{FORGOTTEN_SECONDS:.0f} s after the statement nobody has noticed: the lock is held, the client waits"


@scenario("28", "the host of one that waits vanishes")
def dead_waiter(lab: Lab, crew: Crew) -> str:
    """The server grants the lock to a waiter whose host has vanished."""
    host = _host(lab)
    ini = tree(crew.folder / "tree", TABLE, long(5))
    holder = crew.start(ini)
    until(lambda: at_work(crew.url) == 1, "one at work")
    crew.start(ini, host=host)
    until(lambda: waiting(crew.url) == 1, "one waiting")
    with host.cut_off(lab.server.port):
        holder.code()
        return _after_the_grant(crew, crew.start(ini))


def _after_the_grant(crew: Crew, third: Member) -> str:
    if third.code(12) is not None:
        return "the third went on"
    return f"granted to the dead one ({len(holders(crew.url))} holder), and a live one still waits after 12 s"


@scenario("11", "the answer to COMMIT is lost")
def answer_lost(lab: Lab, crew: Crew) -> str:
    """The answer to COMMIT is lost: the instance reports a failure of a revision that is applied."""
    assert crew.start(tree(crew.folder / "before", TABLE)).code() == 0
    with commits_without_answer(lab.server):
        member = crew.start(tree(crew.folder / "tree", TABLE, long(0)))
        in_doubt = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()"
        until(lambda: bool(fetch_sync(crew.url, f"SELECT 1 {in_doubt}")), "a commit without an answer")
        fetch_sync(crew.url, f"SELECT pg_terminate_backend(pid) {in_doubt}")
        code = member.code()
    return f"reported as failed (exit {code}), and applied: {state(crew.url)}"
