"""Builds the commands that terminate the sessions that block the migration.

The server checks again that the session blocks it when the command runs, because another session may have its pid by
then. A command contains no name that another role can choose, except a table's, which is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from shlex import quote

from ..errors import COMMAND
from .status import Blocker, Holder, LockStatus

ON_DATABASE, AS_SUPERUSER = 'psql "$OWNER_URL" -c', 'psql "$SUPERUSER_URL" -c'
"""The URLs, which `psql` takes only without a driver; the runbook says how to set them."""

SUPERUSER = "superuser"


def psql(sql: str, *, superuser: bool = False) -> str:
    """Return the command line that executes `sql`, as the role of the migrations or as a superuser."""
    # inside double quotes a shell replaces nothing in these characters, and names of tables stay legible
    quoted = f'"{sql}"' if re.fullmatch(r"[\w\s'(),.:;*%=<>-]+", sql, re.ASCII) else quote(sql)
    return f"{AS_SUPERUSER if superuser else ON_DATABASE} {quoted}"


def terminate_blockers(lock_status: LockStatus) -> tuple[str, tuple[str, ...]]:
    """Return how to end what blocks the migration: sentences, and the commands in their order."""
    sessions = [blocker for blocker in lock_status.blocked_by if blocker.pid]
    others = [blocker for blocker in sessions if blocker.terminate_needs == SUPERUSER]
    own = [blocker for blocker in sessions if blocker not in others]
    grants = {blocker.terminate_needs for blocker in own if blocker.terminate_needs}
    sentences = [f"Wait until {_named(sessions)} ends its transaction, or terminate it."] if sessions else []
    commands = [psql(grant, superuser=True) for grant in grants]
    commands += [psql(sql) for sql in _terminations(own, lock_status.holder)]
    if grants:
        sentences.append("This role needs a GRANT for that, from a superuser.")
    if others:
        sentences.append(f"Only a superuser may terminate {_named(others)}, a superuser's session.")
        commands += [psql(sql, superuser=True) for sql in _terminations(others, lock_status.holder)]
    if len(sessions) < len(lock_status.blocked_by):
        sentences.append("End the prepared transaction with COMMIT PREPARED or ROLLBACK PREPARED; doctor names it.")
        commands.append(f"{COMMAND} doctor")
    return " ".join(sentences), tuple(commands)


def _terminations(blockers: Sequence[Blocker], holder: Holder | None) -> Iterator[str]:
    """Yield the statements that terminate those sessions which still hold the table, or still block the holder."""
    on_tables = [blocker for blocker in blockers if blocker.relation]
    if on_tables:
        tables = ", ".join(sorted({f"{_literal(str(blocker.relation))}::regclass" for blocker in on_tables}))
        where = f"pid IN ({_pids(on_tables)}) AND granted AND relation IN ({tables})"
        yield f"SELECT pg_terminate_backend(pid) FROM (SELECT DISTINCT pid FROM pg_locks WHERE {where}) blocking"
    others = [blocker for blocker in blockers if not blocker.relation]
    if others and holder is not None and holder.pid is not None:
        blocking = f"unnest(pg_blocking_pids({holder.pid})) AS blocking(pid)"
        yield f"SELECT pg_terminate_backend(pid) FROM {blocking} WHERE pid IN ({_pids(others)})"


def _named(blockers: Sequence[Blocker]) -> str:
    return "each of the pids " + _pids(blockers) if len(blockers) > 1 else f"pid {_pids(blockers)}"


def _pids(blockers: Sequence[Blocker]) -> str:
    return ", ".join(str(blocker.pid) for blocker in blockers)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
