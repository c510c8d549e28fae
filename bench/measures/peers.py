"""This project beside other migration tools: 500 files, nothing to do, a second one that waits, and a killed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.errors import Skipped
from bench.laboratory import Laboratory
from bench.peers.everyone import PEERS
from bench.peers.pairs import killed, waited
from bench.peers.peer import Peer
from bench.process import run
from bench.spread import HUNDREDTHS, SECONDS, Spread, Usage, alternating, cpu, wall
from bench.table import Bar, Chart, Goal, Row, Table

OURS = "this project"
NO_LOCK = "no lock"
APPLIED_SECONDS, EXIT_SECONDS = 3.0, 0.1
SLOWEST_POLL_SECONDS = 5.0
"""goose looks that often."""
WORDS = (
    "`overlap`: the second one's statement ran beside the killed one's. `fails`: the second one exits with an error. "
    "`never`: it had not ended after 60 s."
)


@dataclass
class Findings:
    """What was measured of one tool; a word instead of a figure says what happened."""

    applied: Sequence[Usage] = ()
    nothing: Sequence[Usage] = ()
    waited: list[float | str] = field(default_factory=list)
    killed: list[float | str] = field(default_factory=list)


def measure(lab: Laboratory) -> Table:
    """Measure all tools that this machine can run, in turns."""
    files = lab.size(500, 5)
    peers, notes = _installed()
    found = {peer.name: Findings() for peer in peers}
    _run_alone(lab, peers, files, found)
    rounds = lab.times(3)
    for number in range(rounds):
        phase_seconds = SLOWEST_POLL_SECONDS * number / rounds
        for peer in peers:
            found[peer.name].waited.append(waited(lab, peer, phase_seconds) if peer.locks else NO_LOCK)
            found[peer.name].killed.append(killed(lab, peer, phase_seconds) if peer.locks else NO_LOCK)
    return Table(list(found), _rows(found, files), [WORDS, *notes], _chart(found, files))


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


def _run_alone(lab: Laboratory, peers: Sequence[Peer], files: int, found: Mapping[str, Findings]) -> None:
    folders = {peer.name: lab.folder() / "files" for peer in peers}
    urls: dict[str, str] = {}
    for peer in peers:
        peer.write(folders[peer.name], [f"CREATE TABLE t{number} (id integer)" for number in range(1, files + 1)])

    def apply(peer: Peer) -> Usage:
        urls[peer.name] = lab.database.empty_database()
        return again(peer)

    def again(peer: Peer) -> Usage:
        folder = folders[peer.name]
        return run(peer.command(folder), lab.environment(urls[peer.name], None, **peer.settings(folder)), folder)

    def in_turns(what: Callable[[Peer], Usage], rounds: int) -> dict[str, list[Usage]]:
        return alternating({peer.name: lambda peer=peer: what(peer) for peer in peers}, lab.times(rounds))  # type: ignore[misc]

    for name, usages in in_turns(apply, 3).items():
        found[name].applied = usages
    for name, usages in in_turns(again, 5).items():
        found[name].nothing = usages


def _rows(found: Mapping[str, Findings], files: int) -> list[Row]:
    each = found.values()
    applied = {name: wall(findings.applied).median for name, findings in found.items()}
    nothing = {name: wall(findings.nothing).median for name, findings in found.items()}
    exits = {name: _median(findings.waited) for name, findings in found.items()}
    return [
        Row(
            f"{files} files applied, wall s",
            [wall(findings.applied).words(HUNDREDTHS) for findings in each],
            [Goal.at_most(APPLIED_SECONDS, applied[OURS], SECONDS), *_below(applied, "yoyo", "Flyway")],
        ),
        Row(f"{files} files applied, CPU s", [cpu(findings.applied).words(HUNDREDTHS) for findings in each]),
        Row(
            f"nothing to do, {files} files, wall s",
            [wall(findings.nothing).words(HUNDREDTHS) for findings in each],
            _below(nothing, "knex"),
        ),
        Row(
            "first's COMMIT to the waiting second's exit, s",
            [_words(findings.waited) for findings in each],
            [Goal.at_most(EXIT_SECONDS, exits[OURS], SECONDS)],
        ),
        Row(
            "holder killed in a statement of 6 s: second's COMMIT, less the 6 s, s",
            [_words(findings.killed) for findings in each],
            [_first({name: _median(findings.killed) for name, findings in found.items()})],
        ),
    ]


def _below(medians: Mapping[str, float], *names: str) -> list[Goal]:
    return [Goal.below(name, medians[OURS], medians[name]) for name in names if name in medians]


def _first(medians: Mapping[str, float]) -> Goal:
    return Goal("first of all without overlap", medians[OURS] <= min(medians.values()) < float("inf"))


def _median(values: Sequence[float | str]) -> float:
    """Return the median; infinite if a run has no figure."""
    figures = [value for value in values if isinstance(value, float)]
    return Spread.of(figures).median if len(figures) == len(values) else float("inf")


def _words(values: Sequence[float | str]) -> str:
    figures = [value for value in values if isinstance(value, float)]
    words = sorted({value for value in values if isinstance(value, str)})
    return ", ".join([*([Spread.of(figures).words(HUNDREDTHS)] if figures else []), *words])


def _chart(found: Mapping[str, Findings], files: int) -> Chart:
    groups = {f"{files} files applied": "applied", "nothing to do": "nothing"}
    bars = [
        Bar(group, name, wall(getattr(findings, attribute)).median)
        for group, attribute in groups.items()
        for name, findings in found.items()
    ]
    return Chart("Migration tools, wall", "s", bars)
