"""Which revisions `lint` looks at."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from ...assembly import Assembly
from ...core.schema import UNCLEAR, Schema
from ...errors import ConfigurationError, MigrationError
from ...execution.revisions import Revisions, unknown
from ...inspection import read_schema, read_session
from ...settings import MigrationSettings
from ..sql.rendering import in_order

Chosen = tuple[frozenset[str], str]
"""The ids of revisions, and which they are, for people."""


def choose(revisions: Revisions, arguments: argparse.Namespace) -> Chosen:
    """Return the revisions that the arguments of the command name; by default the pending ones, or all."""
    everything = frozenset(script.revision for script in in_order(revisions))
    named = [bool(arguments.revision), arguments.all, arguments.since is not None]
    if sum(named) > 1:
        raise ConfigurationError("--all, --since and revisions exclude one another. To fix: pass one of them")
    if arguments.all:
        return everything, "all revisions"
    if arguments.since is not None:
        files = _changed(arguments.since, {Path(script.path).parent for script in in_order(revisions)})
        return _of_files(revisions, files), f"the revisions changed since {arguments.since}"
    if arguments.revision:
        chosen = frozenset[str]().union(*(_named(revisions, word) for word in arguments.revision))
        return chosen, "the revisions named"
    return _pending(everything)


def _named(revisions: Revisions, word: str) -> frozenset[str]:
    """Return the revisions of a file, an id, or a range `after:last`."""
    if word.endswith(".py"):
        found = _of_files(revisions, [Path(word)])
        if not found and not Path(word).is_file():
            raise ConfigurationError(f"{word} does not exist. To fix: correct the path")
        return found  # pre-commit names each file that its pattern matches
    after, is_range, last = word.partition(":")
    if not is_range:
        return revisions.resolve(word)
    from alembic.script.revision import RevisionError
    from alembic.util import CommandError

    try:
        found_scripts = revisions.directory.iterate_revisions(last or "heads", after or "base")
        return frozenset(script.revision for script in found_scripts)
    except (CommandError, RevisionError) as error:
        raise unknown(word) from error


def _of_files(revisions: Revisions, files: Iterable[Path]) -> frozenset[str]:
    wanted = {file.resolve() for file in files}
    return frozenset(script.revision for script in in_order(revisions) if Path(script.path).resolve() in wanted)


def _changed(since: str, folders: set[Path]) -> list[Path]:
    """Return the files in `folders` that differ from where this branch left `since`, and those git does not know."""
    if since.startswith("-"):
        raise ConfigurationError(f"--since {since} is no git reference. To fix: pass a branch, a tag or a commit")
    paths = sorted(map(str, folders))
    base = _git("merge-base", since, "HEAD").strip()
    changed = _git("diff", "--name-only", "--diff-filter=d", "--relative", "-z", base, "--", *paths)
    new = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *paths)
    return [Path(name) for name in (changed + new).split("\0") if name]


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError as error:
        raise ConfigurationError("--since needs git, which is not installed. To fix: install it") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it has no common commit"])[-1]
        raise ConfigurationError(
            f"git {arguments[0]} failed: {reason}. To fix: pass a branch, a tag or a commit that this clone has "
            "(in CI, fetch the whole history)"
        )
    return done.stdout


def _pending(everything: frozenset[str]) -> Chosen:
    try:
        schemas = asyncio.run(_schemas())
    except MigrationError as error:
        why = str(error).partition(". To fix:")[0]
        return everything, f"all revisions, because the pending ones are not known: {why}"
    unclear = [schema.state for schema in schemas if schema.state in UNCLEAR]
    if unclear:
        return everything, f"all revisions, because the database is {unclear[0]}"
    return frozenset[str]().union(*(schema.pending for schema in schemas)), "the pending revisions"


async def _schemas() -> list[Schema]:
    assembly = await Assembly.build(MigrationSettings.load(), ambiguous=True).inspect(ambiguous=True)
    return [await read_session(one, partial(read_schema, one)) for one in assembly.each.values()]
