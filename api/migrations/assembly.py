"""From settings to a coordinator that is ready to run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import await_only

from .core.clock import SystemClock
from .core.coordinator import Coordinator, Scope
from .core.decision import Policy
from .core.elected_session import ElectedSession
from .core.lock_key import LockKey
from .core.protocols import ANSWER_SECONDS, Elector, MigrationSession
from .core.schema import Schema
from .core.status import Tracker
from .databases import registry as backends
from .databases.archive import Archive
from .databases.backup import Backup
from .databases.postgres.backup import PostgresBackup
from .databases.postgres.connection import connect, engine_over
from .databases.postgres.session import CLOSE_SECONDS, PostgresSession
from .databases.sql_session import SqlSession
from .electors.strategy import Choice, choose
from .errors import ConfigurationError
from .execution.env_inspection import Wanted, inspect_env, may_run_several
from .execution.env_options import Pass, VersionTable
from .execution.error_translation import translate
from .execution.history_table import History, RunAuthor
from .execution.limits import Limits
from .execution.lock_retry import LockRetrySchedule
from .execution.revisions import Revisions
from .execution.runner import Runner
from .lock_manager import application_name
from .settings import MigrationSettings, Strategy
from .urls.database_url import DatabaseURL

if TYPE_CHECKING:
    from .databases.sqlite.backup import SqliteBackup

log = logging.getLogger(__name__)


Session = PostgresSession | SqlSession


@dataclass(frozen=True)
class Assembly:
    """Everything one instance needs, built once from its settings."""

    settings: MigrationSettings
    url: DatabaseURL
    choice: Choice
    key: LockKey
    revisions: Revisions
    runner: Runner
    tracker: Tracker
    policy: Policy
    limits: Limits
    schedule: LockRetrySchedule
    elector: Callable[[], Elector] | None
    further: tuple[Assembly, ...] = ()
    """Those of the further version tables, where env.py runs the revisions for several."""
    inspected: bool = False
    """Whether env.py was asked which version table it is."""

    @property
    def hold(self) -> str | None:
        """What whoever is elected holds, for people; None where the database's lock decides alone."""
        return backends.hold_name(self.settings, self.choice.strategy, self.url)

    @classmethod
    def build(
        cls,
        settings: MigrationSettings,
        tracker: Tracker | None = None,
        *,
        ambiguous: bool = False,
        may_be_empty: bool = False,
        revisions: Revisions | None = None,
        only: Pass | None = None,
    ) -> Assembly:
        """Read the revisions and check the settings; touches no database.

        Args:
            settings: of the instance, or of the command.
            tracker: where progress and outcome are shown; a new one if None.
            ambiguous: whether several heads will do where one is meant: for who only looks.
            may_be_empty: whether a build without revisions is accepted, as it always is with MIGRATION_STRATEGY=off.
            revisions: those that were read before; read from the settings' `alembic.ini` if None.
            only: the pass of env.py that this is about, where it makes several.

        Raises:
            ConfigurationError: a setting, `alembic.ini` or a file of the build is not usable.
        """
        url = settings.url()
        url.sqlalchemy()  # or else: which package to install
        backends.refuse_unsafe(url, settings.strategy)
        choice = choose(settings, url)
        key = backends.lock_key(settings, url)
        may_be_empty = may_be_empty or settings.strategy is Strategy.OFF
        if revisions is None:
            revisions = Revisions(settings.alembic_config, settings.target, may_be_empty=may_be_empty)
        if revisions.ambiguous and not ambiguous:
            raise ConfigurationError(revisions.ambiguous)
        release = settings.release or revisions.fingerprint
        runner = _runner(settings, revisions, release, only)
        tracker = tracker or new_tracker(settings)
        tracker.note(
            strategy=str(choice.strategy),
            dialect=url.dialect,
            lock_key=backends.lock_name(url, key),
            release=release,
            schema=Schema(heads=revisions.code.heads),
        )
        limits = Limits(settings.lock_timeout_seconds, settings.statement_timeout_seconds, settings.idle_seconds)
        schedule = LockRetrySchedule(lambda revision: revisions.limits(revision, limits))
        policy = _policy(settings, choice.strategy, release)
        elector = backends.elector(settings, choice.strategy, url)
        return cls(settings, url, choice, key, revisions, runner, tracker, policy, limits, schedule, elector)

    async def inspect(self, *, create_file: bool = False, ambiguous: bool = False) -> Assembly:
        """What this is once env.py has said which version tables it runs the revisions for.

        Args:
            create_file: whether a missing SQLite file is created, should env.py execute something.
            ambiguous: whether several heads will do where one is meant.

        Raises:
            ForeignConnection: it would migrate on another connection, or in a transaction of its own.
            ConfigurationError: it fails by itself, contradicts a setting, or says what cannot be composed.
            MigrationError: it reads from the database, which could not be reached.
        """
        default = VersionTable(self.settings.version_table, self.settings.version_table_schema)
        options = {"transaction_per_migration": True, "transactional_ddl": self.url.dialect != "mysql"}
        connect = partial(self.sql_connection, create_file=create_file)
        wanted = Wanted(default, self.settings.about_the_version_table, options)
        tables = await inspect_env(self.revisions, self.url.sqlalchemy(), connect, wanted)
        revisions = self.revisions.as_env_leaves_them()
        first, *further = (
            Assembly.build(
                self.settings.for_version_table(table.name, table.schema),
                self.tracker if table is tables[0] else None,
                ambiguous=ambiguous,
                revisions=revisions,
                only=Pass(table, default) if len(tables) > 1 else None,
            )
            for table in tables
        )
        return replace(first, further=tuple(replace(one, inspected=True) for one in further), inspected=True)

    @property
    def each(self) -> dict[str, Assembly]:
        """The assembly of each version table alone, by its schema, or by its own name where it has none."""
        every = (replace(self, further=()), *self.further)
        return {one.settings.version_table_schema or one.settings.version_table: one for one in every}

    def session(self, role: str = "waiting", backup: Backup | None = None) -> Session:
        """A new session, not yet connected; its name says that it waits, or another `role`."""
        return self._session(self.runner, role, backup, create_file=role != "reading")

    def locking_session(self, backup: Backup | None = None, *, create_file: bool = True) -> MigrationSession:
        """A new session that takes the lock as the strategy has it; who `create_file` makes a SQLite file not there."""
        if self.elector is None:
            return self._session(self.runner, "waiting", backup, create_file=create_file)
        elector = self.elector()
        # called in the run, which is SQLAlchemy's synchronous half: its way back to the loop
        runner = self.runner.fenced(lambda: await_only(elector.confirm()))
        return ElectedSession(self._session(runner, "waiting", backup, create_file=create_file), elector)

    def _session(self, runner: Runner, role: str, backup: Backup | None, *, create_file: bool) -> Session:
        instance, limits, schedule = self.settings.instance, self.limits, self.schedule
        if self.url.dialect == "postgresql":
            assert backup is None or isinstance(backup, PostgresBackup)
            return PostgresSession(self.url, self.key, limits, schedule, runner, role, backup)
        platform = backends.platform(self.url, self.key, instance, limits, schedule, create_file=create_file)
        return SqlSession(platform, schedule, runner, instance, cast("SqliteBackup | None", backup))

    def backup(self, folder: str | None = None) -> Backup:
        """What takes backups into `folder`, or else into the folder of the settings.

        Raises:
            ConfigurationError: not of this database.
        """
        settings, (history, author) = self.settings, (self.runner.history, self.runner.author)
        archive = Archive(Path(folder or settings.backup_dir).expanduser(), settings.backup_keep)
        if self.url.dialect == "sqlite":
            from .databases.sqlite.backup import SqliteBackup  # not every Python has SQLite

            archive = replace(archive, ending=".sqlite")
            return SqliteBackup(archive, settings.backup_seconds, history, author, Path(self.url.database))
        if self.url.dialect == "mysql":
            raise ConfigurationError(
                "backups of MySQL and MariaDB are not made here; take one with mysqldump --single-transaction, or a "
                "snapshot, and then upgrade without --backup"
            )
        version, idle = settings.version_table, settings.idle_seconds
        return PostgresBackup(archive, settings.backup_seconds, history, author, self.url, version, idle)

    @asynccontextmanager
    async def sql_connection(self, *, create_file: bool = False) -> AsyncIterator[AsyncConnection]:
        """A connection of SQLAlchemy's to read from, in transactions that nobody commits.

        Args:
            create_file: whether a missing SQLite file is created.

        Raises: whatever the driver raises; the caller knows what it was doing and translates.
        """
        if self.url.dialect == "postgresql":
            name = application_name(self.key, "reading", self.settings.instance)
            raw = await connect(self.url, Limits(), name)
            try:
                async with engine_over(raw, "READ COMMITTED").connect() as connection:
                    yield connection
            finally:
                await raw.close(timeout=CLOSE_SECONDS)
        else:
            instance, limits, schedule = self.settings.instance, self.limits, self.schedule
            platform = backends.platform(self.url, self.key, instance, limits, schedule, create_file=create_file)
            # a server that accepts and says nothing would be waited for for ever
            async with asyncio.timeout(ANSWER_SECONDS):
                connection = await platform.connect()
            try:
                yield connection
            finally:
                await connection.close()

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
        policy = policy or self.policy

        async def inspect() -> list[Scope]:
            return (await self.inspect(create_file=policy.may_migrate))._scopes(policy, backup)

        scopes = self._scopes(policy, backup)
        if self.inspected:
            return Coordinator(scopes, self.tracker, policy, SystemClock())
        env_py = Path(self.revisions.directory.env_py_location)
        unclear = self.revisions.incomplete is not None or may_run_several(env_py)
        return Coordinator([] if unclear else scopes, self.tracker, policy, SystemClock(), inspect)

    def _scopes(self, policy: Policy, backup: Backup | None) -> list[Scope]:
        scopes = []
        for name, one in self.each.items():
            sessions = partial(one.locking_session, backup, create_file=policy.may_migrate)
            scopes.append(Scope(sessions, one.revisions.code, name if self.further else None))
            # the first run's is of the whole database
            backup = None
        return scopes

    def operator_coordinator(self) -> Coordinator:
        """A coordinator for what a person orders, who may also where the instances may not."""
        return self.coordinator(replace(self.policy, may_migrate=True))


def new_tracker(settings: MigrationSettings) -> Tracker:
    """A tracker that knows who this is."""
    return Tracker(instance=settings.instance, release=settings.release, strategy=str(settings.strategy))


def _runner(settings: MigrationSettings, revisions: Revisions, release: str, only: Pass | None) -> Runner:
    schema = settings.version_table_schema
    history, author = History(settings.history, schema), RunAuthor(settings.instance, release)
    drop_invalid = settings.drop_invalid_indexes
    return Runner(revisions, history, author, settings.version_table, schema, drop_invalid=drop_invalid, only=only)


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
