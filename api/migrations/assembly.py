"""From settings to a coordinator that is ready to run."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import asyncpg

from .archive import Archive
from .backup import Backup
from .clock import SystemClock
from .connection import connect
from .coordinator import Coordinator
from .decision import Policy
from .errors import ConfigurationError
from .failures import translate
from .history import Author, History
from .limits import Limits
from .lock_manager import LockKey, application_name
from .logs import speak_for
from .pace import Pace
from .postgres import CLOSE_SECONDS, PostgresSession
from .revisions import Revisions
from .runner import Runner
from .schema import Schema
from .settings import MigrationSettings, Strategy
from .state import Phase, Tracker
from .urls import DatabaseURL

log = logging.getLogger(__name__)


def choose(settings: MigrationSettings, url: DatabaseURL) -> Strategy:
    """The strategy that `auto` means, or the one that was named.

    Raises:
        ConfigurationError: it is not available, or not for this database.
    """
    strategy = Strategy.ADVISORY_LOCK if settings.strategy is Strategy.AUTO else settings.strategy
    if strategy in {Strategy.REDIS, Strategy.KUBERNETES}:
        raise ConfigurationError(
            f"MIGRATION_STRATEGY={strategy} is not built yet; use advisory_lock or job (PostgreSQL), or off"
        )
    if url.dialect != "postgresql":
        raise ConfigurationError(
            f"migrations on {url.dialect} are not built yet; use a postgresql:// URL, or MIGRATION_STRATEGY=off "
            "and migrate before the instances start"
        )
    return strategy


@dataclass(frozen=True)
class Assembly:
    """Everything one instance needs, built once from its settings."""

    settings: MigrationSettings
    url: DatabaseURL
    key: LockKey
    revisions: Revisions
    runner: Runner
    tracker: Tracker
    policy: Policy
    limits: Limits
    pace: Pace

    @classmethod
    def build(cls, settings: MigrationSettings, tracker: Tracker | None = None) -> Assembly:
        """Read the revisions and check the settings; touches no database.

        Raises:
            ConfigurationError: a setting, `alembic.ini` or the revision tree is not usable.
        """
        url = settings.url()
        strategy = choose(settings, url)
        key = LockKey.derive(settings.lock_name, settings.version_table, settings.version_table_schema)
        revisions = Revisions(settings.alembic_config, settings.target)
        history = History(settings.history, settings.version_table_schema)
        release = settings.release or revisions.fingerprint
        author = Author(settings.instance, release)
        runner = Runner(
            revisions,
            history,
            author,
            settings.version_table,
            settings.version_table_schema,
            drop_invalid=settings.drop_invalid_indexes,
        )
        tracker = tracker or new_tracker(settings)
        tracker.note(
            strategy=str(strategy),
            dialect=url.dialect,
            lock_key=str(key),
            release=release,
            schema=Schema(heads=revisions.code.heads),
        )
        limits = Limits(settings.lock_timeout_seconds, settings.statement_timeout_seconds, settings.idle_seconds)
        pace = Pace(lambda revision: revisions.limits(revision, limits))
        policy = _policy(settings, strategy, release)
        return cls(settings, url, key, revisions, runner, tracker, policy, limits, pace)

    def session(self, role: str = "waiting", backup: Backup | None = None) -> PostgresSession:
        """A new session, not yet connected; its name says that it waits, or another `role`."""
        instance = self.settings.instance
        return PostgresSession(self.url, self.key, instance, self.limits, self.pace, self.runner, role, backup)

    def backup(self, folder: str | None = None) -> Backup:
        """What takes backups into `folder`, or else into the folder of the settings."""
        settings, runner = self.settings, self.runner
        archive = Archive(Path(folder or settings.backup_dir).expanduser(), settings.backup_keep)
        version = settings.version_table
        seconds, idle = settings.backup_seconds, settings.idle_seconds
        return Backup(archive, seconds, self.url, version, runner.history, runner.author, idle)

    @asynccontextmanager
    async def connection(self, role: str = "reading") -> AsyncIterator[asyncpg.Connection]:
        """A connection of its own to look from, or to act on others; errors on it are translated.

        Raises:
            MigrationError: it could not be opened, or what was done on it failed.
        """
        try:
            raw = await connect(self.url, self.limits, application_name(self.key, role, self.settings.instance))
            try:
                yield raw
            finally:
                await raw.close(timeout=CLOSE_SECONDS)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise translate(error, "looking at the server") from error

    def coordinator(self, policy: Policy | None = None, backup: Backup | None = None) -> Coordinator:
        """The coordinator of this instance; its wait budget starts now. A `backup` comes before any change."""
        sessions = partial(self.session, backup=backup)
        return Coordinator(sessions, self.revisions.code, self.tracker, policy or self.policy, SystemClock())


def new_tracker(settings: MigrationSettings) -> Tracker:
    """A tracker that knows who this is."""
    return Tracker(instance=settings.instance, release=settings.release, strategy=str(settings.strategy))


async def bring_up(settings: MigrationSettings, tracker: Tracker, problem: ConfigurationError | None = None) -> None:
    """What an instance does at start: return once the schema is verified, and the tracker says `ready` or `off`.

    Args:
        settings: whose database and policy.
        tracker: where progress and outcome are shown.
        problem: why the settings could not be read, in which case nothing else is tried.

    Raises:
        MigrationError: the schema could not be verified; the tracker says `failed` and why.
    """
    speak_for(tracker)
    if settings.strategy is Strategy.OFF and problem is None:
        tracker.move(Phase.OFF, message="MIGRATION_STRATEGY=off: nothing is checked")
        return
    try:
        if problem is not None:
            raise problem
        assembly = Assembly.build(settings, tracker)
    except ConfigurationError as error:
        tracker.move(Phase.FAILED, message=str(error))
        raise
    await assembly.coordinator().become_ready()


def _policy(settings: MigrationSettings, strategy: Strategy, release: str) -> Policy:
    return Policy(
        wait_seconds=settings.wait_seconds,
        run_seconds=settings.run_seconds,
        poll_seconds=settings.poll_seconds,
        serve_ahead=settings.on_ahead == "serve",
        may_migrate=strategy is not Strategy.JOB,
        target=settings.target,
        release=release,
    )
