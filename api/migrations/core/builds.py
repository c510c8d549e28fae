"""The builds whose sessions are connected, by their names, and whether each can run after a contract revision.

A service names its sessions `service@head`. What a head contains is known from this build's revisions; for another
build's head, from the parents that the history table recorded. A head in neither is one of another history, such as
that of another service: an instance with it never had its schema in this database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import OldInstances
from .schema import CodeRevisions
from .status import Blocker

_NAME_BYTES = 63
"""What PostgreSQL keeps of an `application_name`."""
_NO_REVISION = "base"


@dataclass(frozen=True)
class NamedSessions:
    """The sessions of one application and role; `pid` is that of one of them."""

    application: str
    user: str | None
    pid: int
    count: int


def name_of(service: str, heads: Iterable[str]) -> str:
    """Return `service@head`, in which the service is cut if both exceed 63 bytes; several heads have commas between."""
    head = ",".join(sorted(heads)) or _NO_REVISION
    kept = service.encode()[: max(1, _NAME_BYTES - 1 - len(head.encode()))].decode(errors="ignore")
    return f"{kept}@{head}"


def heads_in(application: str) -> frozenset[str]:
    """Return the heads in the name of a session; none if it is not a name of this form."""
    service, _, heads = application.rpartition("@")
    return frozenset(heads.split(",")) if service and heads else frozenset()


def outdated(
    sessions: Iterable[NamedSessions],
    contracts: Iterable[str],
    code: CodeRevisions,
    lineage: Mapping[str, frozenset[str]],
) -> tuple[Blocker, ...]:
    """Return the sessions of builds that lack what one of `contracts`, revisions that would run, requires.

    A name as long as PostgreSQL keeps may be cut: whatever its heads are, it lacks them.
    """
    known = {_NO_REVISION, *code.parents, *lineage}
    required = {contract: code.contracts[contract] for contract in contracts}
    found = []
    for one in sessions:
        heads = heads_in(one.application)
        contained = code.closure(heads, lineage)
        lacks = next((needed for needed in required.values() if needed not in contained), None)
        is_cut = len(one.application.encode()) >= _NAME_BYTES
        if lacks is not None and (heads & known or (heads and is_cut)):
            found.append(Blocker(one.pid, one.application, one.user, lacks=lacks, sessions=one.count))
    return tuple(found)


def refusal(blockers: tuple[Blocker, ...], contracts: Iterable[str], code: CodeRevisions) -> OldInstances:
    """Return the error for revisions that do not run while `blockers` are connected."""
    lacked = {str(one.lacks) for one in blockers}
    waiting = ", ".join(contract for contract in contracts if code.contracts[contract] in lacked)
    names = "; ".join(f"{one.application} ({_sessions(one)})" for one in blockers)
    return OldInstances(
        f"revision {waiting} drops what older builds need, and instances of builds without "
        f"{', '.join(sorted(lacked))} are connected: {names}. To fix: finish the deploy of a release that contains it, "
        "or stop those instances",
        blockers=blockers,
    )


def _sessions(one: Blocker) -> str:
    return f"{one.sessions} session{'' if one.sessions == 1 else 's'}, such as pid {one.pid}"
