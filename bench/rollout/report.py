"""The table of a rollout: each phase, the longest wait for a lock, which instances migrated, and the goals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from api.migrations.execution.lock_retry import LockTimeouts
from bench.rollout.outcome import Outcome, Phase, failures, kinds
from bench.spread import MILLISECONDS, SECONDS, Spread
from bench.table import Goal, Row, Table

PHASES = ("before", "deploy", "between", "rollback", "downgrade", "contract", "after")
"""In their order. In `before`, a failed request misses no goal."""
CHANGES = ("deploy", "rollback", "downgrade", "contract")
PROBE_SECONDS = 0.1
"""By how much a wait of the length of a lock timeout may be longer, because a client measures it."""
LONGEST_STALL_SECONDS = LockTimeouts().last_seconds + PROBE_SECONDS
MOST_KINDS = 6
OVERLOAD_SECONDS = 1.0
"""A p99 that shows, before anything changes, that requests arrive faster than they are served."""
LESS = "To fix: stop what else runs on it, or use a lower --rate."


def table(outcomes: Sequence[Outcome]) -> Table:
    """Return a column for each outcome; the goals are for the first one, this project."""
    rows = [row for name in PHASES for row in _phase_rows(name, outcomes)]
    return Table([outcome.variant for outcome in outcomes], [*rows, *_whole(outcomes)], _notes(outcomes))


def _phase_rows(name: str, outcomes: Sequence[Outcome]) -> list[Row]:
    phases = [outcome.phase(name) for outcome in outcomes]
    if not any(phases):
        return []
    ours = phases[0]
    goals = [Goal("0", not failures(outcomes[0].of(ours)))] if ours and name != "before" else []

    def cells(write: Callable[[Outcome, Phase], str]) -> list[str]:
        return [write(each, phase) if phase else "–" for each, phase in zip(outcomes, phases, strict=True)]

    return [
        Row(f"{name}: failed requests", cells(_failed), goals),
        Row(f"{name}: p50, p99, longest", cells(_latencies)),
    ]


def _failed(outcome: Outcome, phase: Phase) -> str:
    samples = outcome.of(phase)
    return f"{len(failures(samples)):,} of {len(samples):,}"


def _latencies(outcome: Outcome, phase: Phase) -> str:
    seconds = [sample.seconds for sample in outcome.of(phase)]
    if not seconds:
        return "–"
    spread = Spread.of(seconds)
    values = (spread.median, spread.percentile(99), spread.largest)
    return f"{', '.join(MILLISECONDS.format(value) for value in values)} ms"


def _durations(outcomes: Sequence[Outcome]) -> Row:
    names = [name for name in CHANGES if any(outcome.phase(name) for outcome in outcomes)]

    def cell(outcome: Outcome) -> str:
        phases = [outcome.phase(name) for name in names]
        return ", ".join(f"{phase.seconds:.0f}" if phase else "–" for phase in phases)

    return Row(f"seconds: {', '.join(names)}", [cell(outcome) for outcome in outcomes])


def _whole(outcomes: Sequence[Outcome]) -> list[Row]:
    stalls = [outcome.longest_stall() for outcome in outcomes]
    words = [f"{SECONDS.format(stall.seconds)} s, {stall.table or 'a row'}" for stall in stalls]
    migrators = [", ".join(each.migrators) if each.migrators is not None else "–" for each in outcomes]
    ours = outcomes[0].migrators
    one = [Goal("one", len(ours) == 1)] if ours is not None else []
    goal = Goal.at_most(LONGEST_STALL_SECONDS, stalls[0].seconds, SECONDS)
    return [
        Row("longest wait for a lock", words, [goal]),
        Row("instances that migrated", migrators, one),
        _durations(outcomes),
    ]


def _overloaded(outcome: Outcome) -> bool:
    before = outcome.phase("before")
    seconds = [sample.seconds for sample in outcome.of(before)] if before else []
    return bool(seconds) and Spread.of(seconds).percentile(99) > OVERLOAD_SECONDS


def _notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Return sentences about a load that was too high, and about the kinds of the failures of each variant."""
    notes = []
    for outcome in outcomes:
        if _overloaded(outcome):
            notes.append(f"{outcome.variant}: too many requests for this machine, before the deploy began. {LESS}")
        counted = kinds(outcome.samples).most_common(MOST_KINDS)
        if counted:
            each = "; ".join(f"{count:,} × {kind}" for kind, count in counted)
            notes.append(f"Failed requests of {outcome.variant}: {each}.")
    return notes
