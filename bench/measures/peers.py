"""This project beside other migration tools: 500 files, nothing to do, a second one that waits, and a killed one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.errors import Skipped
from bench.laboratory import Laboratory
from bench.peers.everyone import PEERS
from bench.peers.pairs import killed, waited
from bench.peers.peer import Peer
from bench.process import run
from bench.spread import SECONDS, Spread, Usage, alternating, cpu, wall
from bench.table import Bar, Chart, Goal, Row, Table

OURS = "this project"
COLUMNS = [
    "applied, wall",
    "applied, CPU",
    "nothing to do, wall",
    "first's COMMIT to the second's exit",
    "holder killed in 6 s: second's COMMIT, less the 6 s",
]


@dataclass
class Findings:
    """What was measured of one tool. A string says why there is no figure."""

    apply: Sequence[Usage] = ()
    nothing: Sequence[Usage] = ()
    waited: list[float | str] = field(default_factory=list)
    killed: list[float | str] = field(default_factory=list)


def measure(lab: Laboratory) -> Table:
    """Measure all tools that this machine can run, in turns."""
    files = lab.size(500, 5)
    found: dict[str, Findings] = {}
    peers, notes = _installed()
    folders = {peer.name: lab.folder() / "files" for peer in peers}
    for peer in peers:
        peer.write(folders[peer.name], [f"CREATE TABLE t{number} (id integer)" for number in range(1, files + 1)])
        found[peer.name] = Findings()
    urls: dict[str, str] = {}

    def apply(peer: Peer) -> Usage:
        urls[peer.name] = lab.database.empty_database()
        return again(peer)

    def again(peer: Peer) -> Usage:
        folder = folders[peer.name]
        return run(peer.command(folder), lab.environment(urls[peer.name], None, **peer.settings(folder)), folder)

    for name, usages in alternating({p.name: lambda p=p: apply(p) for p in peers}, lab.times(3)).items():  # type: ignore[misc]
        found[name].apply = usages
    for name, usages in alternating({p.name: lambda p=p: again(p) for p in peers}, lab.times(5)).items():  # type: ignore[misc]
        found[name].nothing = usages
    for _ in range(lab.times(3)):
        for peer in peers:
            found[peer.name].waited.append(waited(lab, peer) if peer.locks else "no lock")
            found[peer.name].killed.append(killed(lab, peer) if peer.locks else "no lock")
    return _table(found, files, notes)


def _installed() -> tuple[list[Peer], list[str]]:
    peers: list[Peer] = []
    versions: list[str] = []
    skipped: list[str] = []
    for peer in PEERS:
        try:
            version = peer.install()
        except Skipped as error:
            skipped.append(f"{peer.name}: {error}.")
            continue
        peers.append(peer)
        versions += [f"{peer.name} {version}"] if version else []
    return peers, [f"Versions: {', '.join(versions)}.", *skipped]


def _table(found: dict[str, Findings], files: int, notes: Sequence[str]) -> Table:
    rows = [
        Row(
            name,
            [
                wall(each.apply).words(SECONDS),
                cpu(each.apply).words(SECONDS),
                wall(each.nothing).words(SECONDS),
                _words(each.waited),
                _words(each.killed),
            ],
            _goals(found) if name == OURS else (),
        )
        for name, each in found.items()
    ]
    bars = [Bar(f"{files} files applied, wall", name, wall(each.apply).median) for name, each in found.items()]
    bars += [Bar("nothing to do, wall", name, wall(each.nothing).median) for name, each in found.items()]
    return Table(COLUMNS, rows, [f"{files} small files.", *notes], Chart("Migration tools", "s", bars))


def _goals(found: dict[str, Findings]) -> list[Goal]:
    ours = found[OURS]
    applied = wall(ours.apply).median
    goals = [Goal.at_most(3.0, applied, SECONDS)]
    goals += [
        Goal.below(f"{name} (applied)", applied, wall(found[name].apply).median)
        for name in ("Flyway", "yoyo")
        if name in found
    ]
    if "knex" in found:
        goals.append(Goal.below("knex (nothing to do)", wall(ours.nothing).median, wall(found["knex"].nothing).median))
    goals.append(Goal(f"exit ≤ {SECONDS.format(0.1)} s", (_median(ours.waited) or 1.0) <= 0.1))
    others = [median for name, each in found.items() if name != OURS and (median := _median(each.killed)) is not None]
    mine = _median(ours.killed)
    return [*goals, Goal("first after the kill", mine is not None and all(mine < other for other in others))]


def _median(values: Sequence[float | str]) -> float | None:
    """Return the median, or None if a run has no figure."""
    figures = [value for value in values if isinstance(value, float)]
    return Spread.of(figures).median if len(figures) == len(values) else None


def _words(values: Sequence[float | str]) -> str:
    """Return the spread of the figures and each reason why there is none."""
    figures = [value for value in values if isinstance(value, float)]
    reasons = sorted({value for value in values if isinstance(value, str)})
    return "; ".join([*([Spread.of(figures).words(SECONDS)] if figures else []), *reasons])
