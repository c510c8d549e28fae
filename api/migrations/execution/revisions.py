"""The revisions of this build: Alembic's script directory, read once and without a database."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from math import inf
from pathlib import Path

from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError

from ..core.schema import CodeRevisions
from ..errors import ConfigurationError, UnknownRevision
from . import script_files
from .alembic_config import name_of, open_config
from .limits import Limits


class Revisions:
    """The revisions of this build, from Alembic's configuration; there must be one unless they `may_be_empty`.

    With `env_may_choose`, env.py may still choose other folders; then missing ones are not refused, but kept in
    `incomplete`.

    Raises:
        ConfigurationError: a file or folder of the build is missing or damaged.
    """

    def __init__(
        self,
        alembic_config: str | Config,
        target: str = "head",
        *,
        may_be_empty: bool = False,
        env_may_choose: bool = True,
    ) -> None:
        self.config = open_config(alembic_config) if isinstance(alembic_config, str) else alembic_config
        self.target = target
        self.directory = script_files.read(self.config)
        try:
            self.code = _graph(self.directory)
        except (CommandError, RevisionError) as error:
            ini = name_of(self.config)
            raise ConfigurationError(
                f"the revisions of {ini} do not form a graph: {error}. To fix: correct the revision files"
            ) from error
        self._may_be_empty = may_be_empty
        self._env_may_choose = env_may_choose
        named_by = str(name_of(self.config)) if env_may_choose else "env.py"
        missing = script_files.incomplete(self.directory, has_revisions=bool(self.code.parents), named_by=named_by)
        self.incomplete = None if may_be_empty else missing
        """The missing folders or revisions, if env.py may still choose other folders."""
        if self.incomplete and not (env_may_choose and script_files.env_chooses(self.directory)):
            raise ConfigurationError(self.incomplete)
        self._own_limits = {r: _limits(self.directory.get_revision(r)) for r in self.code.parents}
        self._version_locations = list(self.directory.version_locations)

    def as_env_leaves_them(self) -> Revisions:
        """Return these, or the revisions in the folders that env.py chose (`context.script.version_locations`)."""
        chosen = [str(folder) for folder in self.directory.version_locations]
        if chosen == self._version_locations:
            if self.incomplete:
                raise ConfigurationError(self.incomplete)
            return self
        self.config.set_main_option("path_separator", "newline")
        self.config.set_main_option("version_locations", "\n".join(chosen).replace("%", "%%"))
        return Revisions(self.config, self.target, may_be_empty=self._may_be_empty, env_may_choose=False)

    @property
    def ambiguous(self) -> str | None:
        """The error message if there are several heads and the target is a single `head`."""
        if self.target != "head" or len(self.code.heads) < 2:
            return None
        return (
            f"the revisions have several heads ({', '.join(sorted(self.code.heads))}). To fix: join them with "
            "'alembic merge heads', or set MIGRATION_TARGET=heads if several are intended"
        )

    @property
    def fingerprint(self) -> str:
        """A digest of this build's revision files."""
        digest = hashlib.sha256()
        for revision in self.code.parents:
            digest.update(Path(self.directory.get_revision(revision).path).read_bytes())
        return digest.hexdigest()[:12]

    def resolve(self, target: str) -> frozenset[str]:
        """Return the full ids of a target: `head`, ids, prefixes, or `base` (none); raise `UnknownRevision`."""
        try:
            return frozenset(script.revision for script in self.directory.get_revisions(target.split(", ")))
        except CommandError as error:
            raise unknown(target) from error

    def check_baseline(self, baseline: str) -> None:
        """Raise `ConfigurationError` unless MIGRATION_BASELINE is a revision of this build, `head` or `base`."""
        if self._env_may_choose and script_files.env_chooses(self.directory):
            return  # env.py has not been executed yet
        try:
            if baseline.startswith("-"):  # Alembic would count from the head
                raise unknown(baseline)
            self.resolve(baseline)
        except UnknownRevision as error:
            raise ConfigurationError(f"MIGRATION_BASELINE={baseline!r}: {error}, or 'base'") from error

    def describe(self, revision: str) -> str:
        """Return `id, first line of its docstring`, or only the id of an unknown revision."""
        if revision not in self.code.parents:
            return revision
        doc = self.directory.get_revision(revision).doc
        return f"{revision}, {doc.rstrip('.')}" if doc else revision

    def limits(self, revision: str, session: Limits) -> Limits:
        """Return the session's limits with those that the revision declares (`lock_timeout_seconds = 10`)."""
        return replace(session, **self._own_limits.get(revision, {}))

    def needing_autocommit(self, revisions: Iterable[str]) -> tuple[str, ...]:
        """Return those of `revisions` whose files open an `autocommit_block`."""
        scripts = [self.directory.get_revision(revision) for revision in revisions]
        return tuple(s.revision for s in scripts if b"autocommit_block" in Path(s.path).read_bytes())

    def mention(self, pattern: re.Pattern[str], revisions: Iterable[str]) -> bool:
        """Whether `env.py` or the file of one of `revisions` contains `pattern`."""
        paths = [self.directory.env_py_location, *filter(None, map(self.path, revisions))]
        return any(pattern.search(Path(path).read_text(errors="replace")) for path in paths if Path(path).is_file())

    def path(self, revision: str) -> str | None:
        """Return the file of a revision; None for an unknown one."""
        return self.directory.get_revision(revision).path if revision in self.code.parents else None


def unknown(target: str) -> UnknownRevision:
    """Return the error for a target that this build does not contain."""
    return UnknownRevision(f"this build has no revision {target!r}. To fix: choose one that 'alembic history' lists")


def _graph(directory: ScriptDirectory) -> CodeRevisions:
    scripts = list(reversed(list(directory.walk_revisions())))
    return CodeRevisions(
        parents={script.revision: _parents(directory, script) for script in scripts},
        heads=frozenset(directory.get_heads()),
        idempotent=frozenset(s.revision for s in scripts if getattr(s.module, "idempotent", False) is True),
    )


def _limits(script: Script) -> dict[str, float]:
    names = ("lock_timeout_seconds", "statement_timeout_seconds")
    declared = {name: getattr(script.module, name) for name in names if hasattr(script.module, name)}
    for name, value in declared.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
            place = Path(script.path).name
            raise ConfigurationError(
                f"{place}: {name} is {value!r}. To fix: set it to a number of seconds, or to 0 for no limit"
            )
    return declared


def _parents(directory: ScriptDirectory, script: Script) -> frozenset[str]:
    links = [script.down_revision, script.dependencies]
    return frozenset(parent.revision for link in links if link for parent in directory.get_revisions(link))
