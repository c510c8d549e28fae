"""Two runs of a tool on one database: the second waits for the first, or takes over when the first is killed."""

from __future__ import annotations

import time
from pathlib import Path

from bench.errors import BenchError
from bench.held import UNTIL_LET_GO, executing, let_go, sampled, until, until_held
from bench.laboratory import Laboratory
from bench.peers.peer import Peer
from bench.process import Program
from bench.spread import Usage

STARTED_SECONDS = 4.0
"""After this time the second one waits: even Java has started."""
STATEMENT_SECONDS = 6
INTO_IT_SECONDS = 2.0
NEVER_SECONDS = 60.0
"""A second one that has not ended then waits for ever, or until its own limit."""

FIRST = "CREATE TABLE t1 (id integer)"
HELD = UNTIL_LET_GO.replace("END $$", "CREATE TABLE done AS SELECT 1 AS a; END $$")
SLOW = f"CREATE TABLE done AS SELECT pg_sleep({STATEMENT_SECONDS})::text AS slept"
SLEEPING = "CREATE TABLE done AS SELECT pg_sleep"
STARTS = (
    "SELECT pid, extract(epoch FROM query_start)::float8 AS since, "
    "extract(epoch FROM clock_timestamp())::float8 AS now "
    f"FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{SLEEPING}%' AND datname = current_database() "
    "AND pid <> pg_backend_pid()"
)


class Pair:
    """A folder, a database, and the two processes; ends them."""

    def __init__(self, lab: Laboratory, peer: Peer, statements: list[str]) -> None:
        self.url = lab.database.empty_database()
        self._peer = peer
        self._lab = lab
        self._folder: Path = lab.folder() / "files"
        peer.write(self._folder, statements)
        self.programs: list[Program] = []

    def start(self) -> Program:
        """Start one more process."""
        environment = self._lab.environment(self.url, None, **self._peer.settings(self._folder))
        self.programs.append(Program(self._peer.command(self._folder), environment, self._folder))
        return self.programs[-1]

    def end(self) -> None:
        """Kill what still runs."""
        for program in self.programs:
            program.end()


def waited(lab: Laboratory, peer: Peer, phase_seconds: float) -> float | str:
    """Return the seconds from the first one's COMMIT to the second one's exit, or a word for what happened instead.

    Args:
        lab: provides the database.
        peer: the tool.
        phase_seconds: how much longer the second one waits; a tool that polls is not always met at the same moment.
    """
    pair = Pair(lab, peer, [FIRST, HELD])
    try:
        first = pair.start()
        until_held(lab, pair.url)
        second = pair.start()
        time.sleep(STARTED_SECONDS + phase_seconds)
        if second.has_ended:
            return _failed(peer, second) if second.code else "does not wait"
        let_go(lab, pair.url)
        first.wait()
        took = _ended(second)
        if first.code != 0:
            raise BenchError(f"{first} exited with {first.code}: {first.last_words()}")
        if took is None:
            return "never"
        if second.code != 0:
            return _failed(peer, second)
        return second.started_at + took.wall_seconds - lab.database.committed_at(pair.url, "done")
    finally:
        pair.end()


def killed(lab: Laboratory, peer: Peer, phase_seconds: float) -> float | str:
    """Return the seconds from SIGKILL of the first to the second's COMMIT, less the statement; else as `waited`."""
    pair = Pair(lab, peer, [FIRST, UNTIL_LET_GO, SLOW])
    try:
        first = pair.start()
        until_held(lab, pair.url)
        second = pair.start()
        time.sleep(STARTED_SECONDS + phase_seconds)
        let_go(lab, pair.url)
        until(lambda: bool(executing(lab, pair.url, SLEEPING)), "the first one executes its long statement")
        [(session, since)] = executing(lab, pair.url, SLEEPING).items()
        time.sleep(max(0.0, since + INTO_IT_SECONDS - time.time()))
        with sampled(pair.url, STARTS, 0.01) as seen:
            killed_at = time.time()
            first.end()
            took = _ended(second)
        if took is None:
            return "never"
        if second.code != 0:
            return _failed(peer, second)
        figure = lab.database.committed_at(pair.url, "done") - killed_at - STATEMENT_SECONDS
    finally:
        pair.end()
    return "overlap" if _overlap(seen, session) else figure


def _failed(peer: Peer, second: Program) -> str:
    last = (second.output().strip().splitlines() or [""])[-1]
    print(f"{peer.name}: the second one exited with {second.code}: {last}", flush=True)
    return "fails"


def _ended(second: Program) -> Usage | None:
    """Return what it took, or None if it did not end in time."""
    try:
        return second.wait(NEVER_SECONDS)
    except BenchError:
        return None


def _overlap(seen: list[dict[str, float]], session: int) -> bool:
    others = [row["since"] for row in seen if row["pid"] != session]
    return any(row["pid"] == session and row["now"] > min(others, default=row["now"]) for row in seen)
