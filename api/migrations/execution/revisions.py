"""What this build knows: Alembic's script directory, read once and without touching a database."""

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
from .limits import Limits


class Revisions:
    """The revisions of this build, from an `alembic.ini`; none only if they `may_be_empty`.

    Where the text of env.py mentions folders of revisions and it was not executed yet (`env_may_choose`), what is
    missing is not refused but kept in `incomplete`.

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
        if isinstance(alembic_config, str) and not Path(alembic_config).is_file():
            raise ConfigurationError(
                f"{alembic_config} not found in {Path.cwd()}, or not a file. To fix: start the service in the "
                "project's folder, or set MIGRATION_ALEMBIC_CONFIG"
            )
        self.config = Config(alembic_config) if isinstance(alembic_config, str) else alembic_config
        self.target = target
        self.directory = script_files.read(self.config)
        try:
            self.code = _graph(self.directory)
        except (CommandError, RevisionError) as error:
            ini = script_files.ini_of(self.config)
            raise ConfigurationError(
                f"the revisions of {ini} do not form a graph: {error}. To fix: correct the revision files"
            ) from error
        self._may_be_empty = may_be_empty
        named_by = str(script_files.ini_of(self.config)) if env_may_choose else "env.py"
        missing = script_files.incomplete(self.directory, has_revisions=bool(self.code.parents), named_by=named_by)
        self.incomplete = None if may_be_empty else missing
        """What is missing, where env.py may still choose other folders of revisions."""
        if self.incomplete and not (env_may_choose and script_files.env_chooses(self.directory)):
            raise ConfigurationError(self.incomplete)
        self._own_limits = {r: _limits(self.directory.get_revision(r)) for r in self.code.parents}
        self._version_locations = list(self.directory.version_locations)

    def as_env_leaves_them(self) -> Revisions:
        """These, or those of the folders that env.py has chosen since (`context.script.version_locations = […]`).

        Raises:
            ConfigurationError: a folder or file of the build is missing or damaged.
        """
        chosen = list(self.directory.version_locations)
        if chosen == self._version_locations:
            if self.incomplete:
                raise ConfigurationError(self.incomplete)
            return self
        self.config.set_main_option("path_separator", "newline")
        self.config.set_main_option("version_locations", "\n".join(chosen).replace("%", "%%"))
        return Revisions(self.config, self.target, may_be_empty=self._may_be_empty, env_may_choose=False)

    @property
    def ambiguous(self) -> str | None:
        """What is wrong where there are several heads and the target is a single `head`."""
        if self.target != "head" or len(self.code.heads) < 2:
            return None
        return (
            f"the revisions have several heads ({', '.join(sorted(self.code.heads))}). To fix: join them with "
            "'alembic merge heads', or set MIGRATION_TARGET=heads if several are intended"
        )

    @property
    def fingerprint(self) -> str:
        """A digest of this build's revision files: two builds with the same one would do the same."""
        digest = hashlib.sha256()
        for revision in self.code.parents:
            digest.update(Path(self.directory.get_revision(revision).path).read_bytes())
        return digest.hexdigest()[:12]

    def resolve(self, target: str) -> frozenset[str]:
        """The full revision ids that a target (`head`, an id, a prefix, `base`) names; `base` is the empty set.

        Raises:
            UnknownRevision: this build has no such revision.
        """
        try:
            found = self.directory.get_revisions(target)
        except CommandError as error:
            raise unknown(target) from error
        return frozenset(script.revision for script in found)

    def describe(self, revision: str) -> str:
        """`id, first line of its docstring`, or only the id where this build does not know it."""
        if revision not in self.code.parents:
            return revision
        doc = self.directory.get_revision(revision).doc
        return f"{revision}, {doc.rstrip('.')}" if doc else revision

    def limits(self, revision: str, session: Limits) -> Limits:
        """The session's limits, or what the revision declares instead (`lock_timeout_seconds = 10`)."""
        return replace(session, **self._own_limits.get(revision, {}))

    def needing_autocommit(self, revisions: Iterable[str]) -> tuple[str, ...]:
        """Those of `revisions` whose files open an `autocommit_block`."""
        scripts = [self.directory.get_revision(revision) for revision in revisions]
        return tuple(s.revision for s in scripts if b"autocommit_block" in Path(s.path).read_bytes())

    def mention(self, words: re.Pattern[str], revisions: Iterable[str]) -> bool:
        """Whether `env.py` or the file of one of `revisions` mentions `words`."""
        paths = [self.directory.env_py_location, *filter(None, map(self.path, revisions))]
        return any(words.search(Path(path).read_text(errors="replace")) for path in paths if Path(path).is_file())

    def path(self, revision: str) -> str | None:
        """The file of a revision."""
        return self.directory.get_revision(revision).path if revision in self.code.parents else None


def unknown(target: str) -> UnknownRevision:
    """The error for a target that this build does not have."""
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
    named = [script.down_revision, script.dependencies]
    below = [found for name in named if name for found in directory.get_revisions(name)]
    return frozenset(s.revision for s in below)
