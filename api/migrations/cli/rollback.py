"""`./migrate.sh check --for-rollback`: whether an older release may run on the schema as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from ..assembly import Assembly
from ..core.protocols import OperatorSession
from ..core.rollback import Judged, Release, Verdict, downgrade_for, judge, release_of, unmarked
from ..core.schema import UNCLEAR, CodeRevisions, Schema, SchemaState, explain
from ..errors import COMMAND, NotAtHead, SchemaRefused, UnknownRevision
from ..execution.history_table import GOOD
from ..inspection import read_schema, read_session
from .lint.old_release import by_rules
from .results import Result

_ALL = 1_000_000
"""More rows than any history has."""
_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class RollbackReport(Result):
    """Whether a release may run on the schema as it is."""

    release: str
    heads: Sequence[str]
    """The newest revisions that the release contains."""
    may_run: bool
    revisions: Sequence[Judged]
    """What the database has beyond the release, oldest first."""
    descriptions: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """0 if the release may run; 7, as for a database that is ahead, if it may not or nothing proves that it may."""
        return 0 if self.may_run else SchemaRefused.exit_code

    def lines(self) -> Iterator[str]:
        """Yield a table of the revisions, and the conclusion."""
        rows = [("revision", "mark", "verdict", "why")]
        rows += [(self.descriptions[one.revision], one.mark or "none", one.verdict, one.why) for one in self.revisions]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        if self.revisions:
            for *columns, why in rows:
                yield "  ".join([*map(str.ljust, columns, widths), why])
        yield self.message

    def as_json(self) -> dict[str, Any]:
        """Return the fields and the exit code."""
        fields = super().as_json()
        del fields["descriptions"]
        return fields | {"exit_code": self.exit_code}


async def check_rollback(assembly: Assembly, name: str) -> RollbackReport:
    """Judge whether the release `name`, or the release whose head is the revision `name`, may run.

    Raises:
        UnknownRevision: neither the history nor this build knows it.
        NotAtHead: the release contains revisions that the database lacks.
        SchemaRefused: the database is unversioned, ahead of this build, diverged or half applied.
    """
    code = assembly.revisions.code
    schema, half, rows, links = await read_session(assembly, partial(_read, assembly))
    known = _releases(rows, code, links)
    release = _release(assembly, name, known, links)
    present = code.closure(schema.revisions)
    if lacking := release.contains - present:
        raise NotAtHead(
            f"{release.name} contains {', '.join(sorted(lacking))}, which the database lacks: it would migrate, so "
            "this is no rollback. To fix: name a release whose revisions the database has"
        )
    present |= half
    judged = _judged(assembly, release, present)
    may_run = _runs(judged)
    # each is judged too, because it may use what this release does not know
    others = islice((one for one in known.values() if present - one.contains), 0 if may_run else _LISTED)
    other = next((one.name for one in others if _runs(_judged(assembly, one, present))), None)
    message = _conclusion(release, judged, (None if half else downgrade_for(judged, code), other))
    return RollbackReport(
        message=message,
        release=release.name,
        heads=sorted(release.heads({**links, **code.parents})),
        may_run=may_run,
        revisions=judged,
        descriptions={one.revision: assembly.revisions.describe(one.revision) for one in judged},
    )


Rows = Sequence[Mapping[str, Any]]
Links = Mapping[str, frozenset[str]]


async def _read(assembly: Assembly, session: OperatorSession) -> tuple[Schema, frozenset[str], Rows, Links]:
    schema = await read_schema(assembly, session)
    if schema.state is SchemaState.AHEAD:
        what = explain(schema).partition(". To fix:")[0]
        raise SchemaRefused(
            f"{what}. To fix: run '{COMMAND} check --for-rollback' with the release that contains it, because the "
            "files of its revisions say what they need"
        )
    if schema.state in UNCLEAR:
        raise SchemaRefused(explain(schema))
    # also while another instance runs it, and although this build would run it again
    half = frozenset(each.revision for each in (await session.store.observe()).half_applied)
    if parts := {one for one in half if assembly.revisions.code.beside(one) is None}:
        raise SchemaRefused(
            f"revision {', '.join(sorted(parts))} has committed a part of its work and is not finished, so an older "
            f"release refuses to start. To fix: wait for the instance that runs it, or run '{COMMAND} upgrade', then "
            "check again"
        )
    return schema, half, await session.store.runs(_ALL), await session.store.lineage()


def _judged(assembly: Assembly, release: Release, present: frozenset[str]) -> tuple[Judged, ...]:
    code, beyond = assembly.revisions.code, present - release.contains
    if not unmarked(code, beyond):
        return judge(release, beyond, code, {})
    dialect: Any = assembly.database.engine_url.get_dialect()
    return judge(release, beyond, code, by_rules(assembly.revisions, beyond, dialect(paramstyle="named")))


def _runs(judged: Sequence[Judged]) -> bool:
    return all(one.verdict is Verdict.RUNS for one in judged)


def _releases(rows: Rows, code: CodeRevisions, links: Links) -> dict[str, Release]:
    """Return the releases that applied or stamped revisions, newest first."""
    applied: dict[str, set[str]] = {}
    for row in rows:
        if row["release"] and row["direction"] in {"upgrade", "stamp"} and row["outcome"] in GOOD:
            applied.setdefault(row["release"], set()).add(row["revision"])
    return {name: release_of(name, revisions, code, links) for name, revisions in applied.items()}


def _release(assembly: Assembly, name: str, known: Mapping[str, Release], links: Links) -> Release:
    code = assembly.revisions.code
    if name in known and name not in code.parents:
        return known[name]
    try:
        revisions = assembly.revisions.resolve(name)
    except UnknownRevision as error:
        names = ", ".join(list(known)[:_LISTED]) or "none"
        raise UnknownRevision(
            f"this build has no revision {name!r}, and no release of that name applied one (newest first: {names}). "
            "To fix: pass the head of that release's revisions instead of its name"
        ) from error
    return release_of(f"the release at {', '.join(sorted(revisions)) or 'base'}", revisions, code, links)


def _conclusion(release: Release, judged: Sequence[Judged], remedy: tuple[str | None, str | None]) -> str:
    if not judged:
        return f"{release.name} may run: the database has no revision that it does not contain"
    bad = [one for one in judged if one.verdict is not Verdict.RUNS]
    count = f"{len(judged)} revision{'' if len(judged) == 1 else 's'}"
    if not bad:
        return f"{release.name} may run on this schema, which has {count} beyond it"
    stays, other = remedy
    ways = [f"roll back to {other} instead"] if other else []
    ways += [f"run '{COMMAND} downgrade {stays}' first, with the release that runs now"] if stays else []
    if any(one.verdict is Verdict.UNKNOWN for one in bad) and not any(one.verdict is Verdict.FAILS for one in bad):
        fails = "nothing proves that it runs"
        ways.insert(0, "review the revisions whose verdict is unknown, and give each a phase")
    else:
        fails = "it would fail"
    names = ", ".join(one.revision for one in bad)
    to_fix = f". To fix: {', or '.join(ways)}" if ways else ""
    return f"{release.name} may not run on this schema: {fails} after {names}{to_fix}"
