"""Judges whether an older release may run on the schema as it is, by what the revisions after it declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from .schema import CodeRevisions


class Verdict(StrEnum):
    """Whether a release runs on the schema after a revision that it does not contain."""

    RUNS = "runs"
    FAILS = "fails"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Judged:
    """The verdict about one revision."""

    revision: str
    mark: str | None
    """Its phase; None if it declares none."""
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Release:
    """A release to roll back to: its `name` for people, and all revisions that it contains."""

    name: str
    contains: frozenset[str]

    def heads(self, links: Mapping[str, frozenset[str]]) -> frozenset[str]:
        """Return those of its revisions that are no parent of another one."""
        return self.contains - {parent for one in self.contains for parent in links.get(one, frozenset())}


def release_of(
    name: str, revisions: Iterable[str], code: CodeRevisions, links: Mapping[str, frozenset[str]]
) -> Release:
    """Return the release that contains `revisions` and their ancestors."""
    return Release(name, code.closure(frozenset(revisions), links))


def unmarked(code: CodeRevisions, beyond: Iterable[str]) -> tuple[str, ...]:
    """Return those of `beyond` that declare no phase, oldest first."""
    wanted = frozenset(beyond) - code.expands - code.contracts.keys()
    return tuple(revision for revision in code.parents if revision in wanted)


def judge(
    release: Release, beyond: frozenset[str], code: CodeRevisions, by_rules: Mapping[str, tuple[Verdict, str]]
) -> tuple[Judged, ...]:
    """Return a verdict for each revision of `beyond`, oldest first; `by_rules` has those of the unmarked ones."""
    return tuple(_judged(release, revision, code, by_rules) for revision in code.parents if revision in beyond)


def _judged(
    release: Release, revision: str, code: CodeRevisions, by_rules: Mapping[str, tuple[Verdict, str]]
) -> Judged:
    if revision in code.expands:
        return Judged(revision, "expand", Verdict.RUNS, "it declares that what runs before it runs after it")
    if revision not in code.contracts:
        return Judged(revision, None, *by_rules.get(revision, (Verdict.UNKNOWN, "it declares no phase")))
    requires = code.contracts[revision]
    if requires in release.contains:
        return Judged(revision, "contract", Verdict.RUNS, f"{release.name} contains {requires}, which it requires")
    return Judged(revision, "contract", Verdict.FAILS, f"it requires {requires}, which {release.name} does not contain")


def downgrade_for(judged: Iterable[Judged], code: CodeRevisions) -> str | None:
    """Return the revision to which a downgrade would let the release run; None if there is none."""
    blocking = [one.revision for one in judged if one.verdict is not Verdict.RUNS]
    if not blocking:
        return None
    oldest = blocking[0]
    below = code.parents[oldest]
    # a revision in another branch would stay
    linear = len(below) == 1 and all(oldest in code.closure(frozenset({one})) for one in blocking)
    return next(iter(below)) if linear else None
