"""The revisions of this build, read once and without a database: as text, or with Alembic's script directory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError, UnknownRevision
from . import revision_files
from .limits import Limits

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

_COMMITS = re.compile(rb"autocommit_block|\b%s\.backfill\b" % (__package__ or "").rpartition(".")[0].encode())
"""Also in a project that copied the package under another name."""


class Revisions:
    """The revisions of this build, from Alembic's configuration; there must be one unless they `may_be_empty`.

    `alembic_config` is the path of a file, of which `section` counts, or Alembic's object. Files are read as text if
    that suffices, and with Alembic as soon as anything else is asked; `code` may then have another valid order.

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
        section: str = "alembic",
        may_be_empty: bool = False,
        env_may_choose: bool = True,
    ) -> None:
        self.target = target
        self.incomplete: str | None = None
        """The missing folders or revisions, if env.py may still choose other folders."""
        self._given = alembic_config
        self._section = section
        self._may_be_empty = may_be_empty
        self._env_may_choose = env_may_choose
        self._loaded: tuple[Config, ScriptDirectory, list[str]] | None = None
        files = revision_files.read(alembic_config, section) if isinstance(alembic_config, str) else None
        if files is None:
            self._load()
        else:
            self.code, self._files, self.env_py = files.code, files.files, files.env_py

    @property
    def config(self) -> Config:
        """Alembic's configuration. Raises `ConfigurationError` as the constructor does."""
        return self._load()[0]

    @property
    def directory(self) -> ScriptDirectory:
        """Alembic's script directory. Raises `ConfigurationError` as the constructor does."""
        return self._load()[1]

    def _load(self) -> tuple[Config, ScriptDirectory, list[str]]:
        if self._loaded is None:
            # at head, a start needs nothing of Alembic
            from . import script_files
            from .alembic_config import open_config

            given = self._given
            config = open_config(given, self._section) if isinstance(given, str) else given
            directory = script_files.read(config)
            found = script_files.revisions(config, directory)
            self.code, self._files, self.env_py = found.code, found.files, found.env_py
            missing = script_files.incomplete(config, directory, self._env_may_choose, bool(self.code.parents))
            self.incomplete = None if self._may_be_empty else missing
            if self.incomplete and not (self._env_may_choose and script_files.env_chooses(directory)):
                raise ConfigurationError(self.incomplete)
            self._loaded = config, directory, list(directory.version_locations)
        return self._loaded

    def as_env_leaves_them(self) -> Revisions:
        """Return these, or the revisions in the folders that env.py chose (`context.script.version_locations`)."""
        config, directory, before = self._load()
        chosen = [str(folder) for folder in directory.version_locations]
        if chosen == before:
            if self.incomplete:
                raise ConfigurationError(self.incomplete)
            return self
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", "\n".join(chosen).replace("%", "%%"))
        return Revisions(config, self.target, may_be_empty=self._may_be_empty, env_may_choose=False)

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
        for _, file in sorted(self._files.items()):
            digest.update(file.path.read_bytes())
        return digest.hexdigest()[:12]

    def resolve(self, target: str) -> frozenset[str]:
        """Return the full ids of a target: `head`, ids, prefixes, or `base` (none); raise `UnknownRevision`."""
        from alembic.util import CommandError

        try:
            return frozenset(script.revision for script in self.directory.get_revisions(target.split(", ")))
        except CommandError as error:
            raise unknown(target) from error

    def check_baseline(self, baseline: str) -> None:
        """Raise `ConfigurationError` unless MIGRATION_BASELINE is a revision of this build, `head` or `base`."""
        if baseline in {"base", *self.code.parents}:
            return
        from . import script_files

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
        doc = self._files[revision].doc if revision in self._files else ""
        return f"{revision}, {doc.rstrip('.')}" if doc else revision

    def limits(self, revision: str, session: Limits) -> Limits:
        """Return the session's limits with those that the revision declares (`lock_timeout_seconds = 10`)."""
        return replace(session, **(self._files[revision].limits if revision in self._files else {}))

    def needing_autocommit(self, revisions: Iterable[str]) -> tuple[str, ...]:
        """Return those of `revisions` whose files open an `autocommit_block` or import `backfill`."""
        return tuple(r for r in revisions if _COMMITS.search(self._files[r].path.read_bytes()))

    def mention(self, pattern: re.Pattern[str], revisions: Iterable[str]) -> bool:
        """Whether `env.py` or the file of one of `revisions` contains `pattern`."""
        paths = [self.env_py, *(Path(path) for path in map(self.path, revisions) if path)]
        return any(pattern.search(path.read_text(errors="replace")) for path in paths if path.is_file())

    def path(self, revision: str) -> str | None:
        """Return the file of a revision; None for an unknown one."""
        return str(self._files[revision].path) if revision in self._files else None


def unknown(target: str) -> UnknownRevision:
    """Return the error for a target that this build does not contain."""
    return UnknownRevision(f"this build has no revision {target!r}. To fix: choose one that 'alembic history' lists")
