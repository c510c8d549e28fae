"""The rollout itself: deploy, rollback and downgrade under load, one instance at a time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.held import sampled
from bench.laboratory import Laboratory
from bench.process import Program
from bench.rollout.dataset import fill
from bench.rollout.instance import Instance
from bench.rollout.load import Generator, Load
from bench.rollout.long_transaction import open_report
from bench.rollout.outcome import Event, Outcome, Phase, Size
from bench.rollout.probe import EVERY_SECONDS, SERVICE_WAITS, Stall, probed
from bench.rollout.proxy import running_haproxy
from bench.rollout.targets import targets
from bench.rollout.variant import OPERATOR, Variant
from devtools.ports import HOST, free_port

TABLES = ("accounts", "transactions", "postings")
HISTORY = (
    "SELECT instance, direction, revision, outcome, extract(epoch FROM started_at)::float8 AS began, "
    "extract(epoch FROM finished_at)::float8 AS ended FROM alembic_version_history "
    "WHERE extract(epoch FROM started_at) >= {began} AND finished_at IS NOT NULL ORDER BY id"
)
DOWNGRADES = 5
CHECKED_SECONDS = 1.0


class Rollout:
    """One rollout of a variant in the database at `url`; `say` gets each event in words."""

    def __init__(self, lab: Laboratory, variant: Variant, url: str, size: Size, say: Callable[[str], None]) -> None:
        self._lab, self._variant, self._url, self._size, self._say = lab, variant, url, size, say
        self._ports = {release: [free_port() for _ in range(size.instances)] for release in variant.trees}
        self._serving: list[Instance] = []
        self._all: list[Instance] = []

    def run(self, generator: Generator) -> Outcome:
        """Run all phases.

        Raises:
            BenchError: an instance or a command failed where the rollout cannot go on.
            bench.errors.Skipped: haproxy is not installed.
        """
        self.outcome = Outcome(self._variant.name, generator.name, self._size)
        self._variant.migrate(self._lab, self._url)
        accounts = fill(self._url, self._size.postings)
        folder, port = self._lab.folder(), free_port()
        try:
            for number in range(self._size.instances):
                self._start(1, f"old-{number + 1}", number)
            for instance in self._all:
                instance.until_ready()
            self._serving = list(self._all)
            self._under_load(generator, accounts, folder, port)
        finally:
            for instance in self._all:
                instance.program.end()
                self.outcome.logs[instance.name] = instance.program.output()
        return self.outcome

    def _under_load(self, generator: Generator, accounts: int, folder: Path, port: int) -> None:
        with ExitStack() as stack:
            proxy = stack.enter_context(running_haproxy(folder, port, self._slots()))
            # until its first checks haproxy takes all instances for ready, also those that do not exist yet
            time.sleep(CHECKED_SECONDS)
            waits = stack.enter_context(sampled(self._url, SERVICE_WAITS, EVERY_SECONDS))
            stalls = stack.enter_context(probed(self._url, TABLES))
            requests = targets(f"http://{HOST}:{port}", accounts)
            load = stack.enter_context(Load(generator, requests, self._size.rate, folder))
            self._phases()
            self.outcome.logs["haproxy"] = proxy.output()
        self.outcome.samples = load.samples
        self.outcome.stalls = [*stalls, *(Stall(row["at"], row["seconds"], "") for row in waits)]

    def _phases(self) -> None:
        with self._phase("before"):
            self._quiet()
        with self._phase("deploy") as began, open_report(self._url, self._size.report_seconds):
            self._replace(2, "new")
        if self._variant.writes_history:
            rows = self._lab.database.execute(self._url, HISTORY.format(began=began))
            self.outcome.migrators = sorted({row["instance"] for row in rows if row["direction"] == "upgrade"})
        with self._phase("between"):
            self._quiet()
        with self._phase("rollback"):
            downgraded = self._roll_back()
        if not downgraded:
            with self._phase("downgrade"):
                self._downgrade()
        if self._variant.contracts:
            with self._phase("contract"):
                self._contract()
        with self._phase("after"):
            self._quiet()
        if self._variant.writes_history:
            rows = self._lab.database.execute(self._url, HISTORY.format(began=began))
            self.outcome.events = sorted([*self.outcome.events, *map(_attempt, rows)], key=lambda event: event.at)

    def _roll_back(self) -> bool:
        """Replace release 2 by release 1; return whether that needed a downgrade first."""
        try:
            self._replace(1, "back")
        except BenchError:
            self._note(f"release 1 does not start on the schema of release 2: {_reason(self._all[-1].program)}")
            self._downgrade()
            self._replace(1, "again")
            return True
        return False

    def _contract(self) -> None:
        """Start release 3 too early: it waits until the last instance of release 1 has been replaced by release 2."""
        early = self._start(3, "early-1", 0)
        self._note(f"{early.name} does not migrate while {', '.join(early.until_waits_for_builds())} is connected")
        self._replace(2, "second")
        self._replace(3, "third", early)

    def _replace(self, release: int, name: str, first: Instance | None = None) -> None:
        """Replace the serving instances by those of another release: one more first, then one less."""
        for number, old in enumerate(list(self._serving)):
            new = first if first and number == 0 else self._start(release, f"{name}-{number + 1}", number)
            new.until_ready()
            self._note(f"{new.name} is ready")
            time.sleep(self._size.settle_seconds)
            self._note(f"{old.name} gets SIGTERM")
            old.stop()
            self._note(f"{old.name} has ended")
            self._serving[number] = new

    def _start(self, release: int, name: str, number: int) -> Instance:
        instance = self._variant.start(self._lab, self._url, release, name, self._ports[release][number])
        self._all.append(instance)
        self._note(f"{name} starts (release {release})")
        return instance

    def _downgrade(self) -> None:
        """Remove what release 2 added; repeat the command if it fails, as an operator does."""
        words, environment = self._variant.downgrade, self._variant.environment(self._lab, self._url, 2, OPERATOR)
        with open_report(self._url, self._size.report_seconds):
            for _ in range(DOWNGRADES):
                self._note("downgrade begins")
                program = Program(words, environment, self._variant.trees[2])
                program.wait()
                if program.code == 0:
                    return self._note("downgrade has ended")
                self._note(f"downgrade failed: {_reason(program)}")
        raise BenchError(f"downgrade failed {DOWNGRADES} times: {self.outcome.events[-1].words}")

    def _quiet(self) -> None:
        time.sleep(self._size.quiet_seconds)

    def _slots(self) -> dict[str, int]:
        return {f"{release}-{n}": port for release, ports in self._ports.items() for n, port in enumerate(ports, 1)}

    def _note(self, words: str) -> None:
        self.outcome.events.append(Event(time.time(), words))
        self._say(words)

    @contextmanager
    def _phase(self, name: str) -> Iterator[float]:
        began = time.time()
        self._note(f"{name}:")
        yield began
        self.outcome.phases.append(Phase(name, began, time.time()))


def _attempt(row: Any) -> Event:
    """Return an attempt at a revision as an event, at its end."""
    words = (
        f"{row['instance']}: {row['direction']} {row['revision']} {row['outcome']}, {row['ended'] - row['began']:.2f} s"
    )
    return Event(row["ended"], words)


def _reason(program: Program) -> str:
    """Return the line of the output that names the error."""
    lines = [line.strip() for line in program.output().splitlines() if line.strip()]
    return next((line for line in reversed(lines) if re.search(r"\w(Error|error)\b.*: |^Error: ", line)), lines[-1])
