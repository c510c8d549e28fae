"""The composition root: builds a coordinator from the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .core.clock import SystemClock
from .core.coordinator import Coordinator, Scope
from .core.decision import Policy
from .core.elected_session import ElectedSession
from .core.protocols import Elector, MigrationSession, OperatorSession
from .core.schema import Schema
from .core.status import Tracker
from .databases.backend import Backend
from .databases.registry import backend_of, backup_of
from .electors.registry import elector_of, hold_name
from .electors.strategy import Choice, choose
from .errors import ConfigurationError
from .execution.alembic_config import open_config
from .execution.env_inspection import Wanted, inspect_env
from .execution.env_options import Pass, VersionTable
from .execution.env_text import may_run_several
from .execution.history_table import History, RunAuthor
from .execution.hooks import Hooks
from .execution.lock_retry import LockRetrySchedule
from .execution.revisions import Revisions
from .execution.runner import Runner
from .runtime.thread import wait_on_loop
from .settings import MigrationSettings, Strategy

if TYPE_CHECKING:
    from .databases.backups.backup import Backup  # optional


@dataclass(frozen=True)
class Assembly:
    """The objects of one instance or command, built from its settings."""

    settings: MigrationSettings
    database: Backend
    choice: Choice
    revisions: Revisions
    runner: Runner
    tracker: Tracker
    policy: Policy
    schedule: LockRetrySchedule
    elector: Callable[[], Elector] | None
    further: tuple[Assembly, ...] = ()
    """The assemblies of the other version tables, if env.py runs the revisions for several."""
    inspected: bool = False
    """Whether env.py was executed to learn its version tables."""

    @property
    def hold(self) -> str | None:
        """The name of the key or Lease; None if the database's lock decides alone."""
        return hold_name(self.settings, self.choice.strategy, self.database.url)

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
        own_connection: bool = False,
        hooks: Hooks | None = None,
    ) -> Assembly:
        """Read the revisions and check the settings, without a database.

        Args:
            settings: of the instance or the command.
            tracker: receives progress and result; default: a new one.
            ambiguous: whether to accept several heads if the target is `head`.
            may_be_empty: whether to accept a build without revisions; MIGRATION_STRATEGY=off always does.
            revisions: default: read from the settings' Alembic configuration.
            only: the pass of env.py that this assembly is for, if env.py makes several.
            own_connection: whether env.py opens a connection of its own for the revisions.
            hooks: the application's functions; default: those of the settings.

        Raises:
            ConfigurationError: a setting, Alembic's configuration or a file of the build is invalid.
        """
        url = settings.url()
        database = backend_of(settings, url)
        database.check_strategy()
        choice = choose(settings, database.native_lock, database.why_redis)
        revisions = revisions or _revisions(settings, may_be_empty)
        if revisions.ambiguous and not ambiguous:
            raise ConfigurationError(revisions.ambiguous)
        if settings.baseline is not None and settings.strategy is not Strategy.OFF:
            revisions.check_baseline(settings.baseline)
        release = settings.release or revisions.fingerprint
        tracker = tracker or new_tracker(settings)
        tracker.note(strategy=str(choice.strategy), release=release, schema=Schema(heads=revisions.code.heads))
        tracker.note(dialect=url.dialect, lock_key=database.lock_name, holder_kind=database.holder_kind)
        hooks = hooks or Hooks.of(settings.before, settings.after)
        runner = _runner(settings, revisions, release, only, own_connection, hooks)
        policy = _policy(settings, choice.strategy, release, hooks)
        schedule = LockRetrySchedule(partial(revisions.limits, session=database.limits))
        elector = elector_of(settings, choice.strategy, url)
        return cls(settings, database, choice, revisions, runner, tracker, policy, schedule, elector)

    async def inspect(self, *, create_file: bool = False, ambiguous: bool = False) -> Assembly:
        """Execute env.py and return this assembly for the version tables that env.py names.

        Args:
            create_file: whether to create a missing SQLite file if env.py executes statements.
            ambiguous: as in `build`.

        Raises:
            ForeignConnection: env.py would migrate on another connection, or in its own transaction.
            ConfigurationError: env.py fails, contradicts a setting, or names options that cannot be merged.
            MigrationError: env.py reads from the database, which is unreachable.
        """
        self.runner.hooks.load()
        default = VersionTable(self.settings.version_table, self.settings.version_table_schema)
        database = self.database
        options = {"transaction_per_migration": True, "transactional_ddl": database.transactional_ddl}
        connect = partial(database.sql_connection, create_file=create_file)
        wanted = Wanted(default, self.settings.about_the_version_table, options)
        inspected = await inspect_env(self.revisions, database.engine_url, database.url.connecting, connect, wanted)
        revisions, tables = self.revisions.as_env_leaves_them(), inspected.tables
        first, *further = (
            Assembly.build(
                self.settings.for_version_table(table.name, table.schema),
                self.tracker if table is tables[0] else None,
                ambiguous=ambiguous,
                revisions=revisions,
                only=Pass(table, default) if len(tables) > 1 else None,
                own_connection=inspected.own_connection,
                hooks=self.runner.hooks,
            )
            for table in tables
        )
        return replace(first, further=tuple(replace(one, inspected=True) for one in further), inspected=True)

    @property
    def each(self) -> dict[str, Assembly]:
        """One assembly for each version table, by schema, or by table name if it has no schema."""
        every = (replace(self, further=()), *self.further)
        return {one.settings.version_table_schema or one.settings.version_table: one for one in every}

    def session(self, role: str = "waiting", backup: Backup | None = None) -> OperatorSession:
        """Return a new, unconnected session; its application name contains `role`."""
        return self.database.session(self.runner, self.schedule, role, backup, create_file=role != "reading")

    def locking_session(self, backup: Backup | None = None, *, create_file: bool = True) -> MigrationSession:
        """Return a new session that acquires the lock; `create_file` allows it to create a missing SQLite file."""
        if self.elector is None:
            return self.database.session(self.runner, self.schedule, "waiting", backup, create_file=create_file)
        elector = self.elector()
        # the run is synchronous and may be in another thread
        runner = self.runner.fenced(lambda: wait_on_loop(elector.confirm))
        session = self.database.session(runner, self.schedule, "waiting", backup, create_file=create_file)
        return ElectedSession(session, elector)

    def backup(self, folder: str | None = None) -> Backup:
        """Return a backup into `folder` (default: MIGRATION_BACKUP_DIR).

        Raises `ConfigurationError` if this package makes no backups of this database.
        """
        return backup_of(self.database, folder, self.runner.history, self.runner.author)

    def coordinator(self, policy: Policy | None = None, backup: Backup | None = None) -> Coordinator:
        """Return a coordinator, whose wait budget starts now; it makes the `backup` before it changes anything."""
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
            # one backup contains all schemas
            backup = None
        return scopes

    def operator_coordinator(self) -> Coordinator:
        """Return a coordinator for an operator's command, which may migrate with strategy `job` too."""
        return self.coordinator(replace(self.policy, may_migrate=True))


def new_tracker(settings: MigrationSettings) -> Tracker:
    """Return a tracker with the instance, release and strategy of the settings."""
    return Tracker(instance=settings.instance, release=settings.release, strategy=str(settings.strategy))


def _revisions(settings: MigrationSettings, may_be_empty: bool) -> Revisions:
    config = open_config(settings.alembic_config, settings.alembic_section)
    return Revisions(config, settings.target, may_be_empty=may_be_empty or settings.strategy is Strategy.OFF)


def _runner(
    settings: MigrationSettings,
    revisions: Revisions,
    release: str,
    only: Pass | None,
    own_connection: bool,
    hooks: Hooks,
) -> Runner:
    return Runner(
        revisions,
        History(settings.history, settings.version_table_schema),
        RunAuthor(settings.instance, release),
        settings.version_table,
        settings.version_table_schema,
        drop_invalid=settings.drop_invalid_indexes,
        only=only,
        own_connection=own_connection,
        baseline=settings.baseline,
        hooks=hooks,
    )


def _policy(settings: MigrationSettings, strategy: Strategy, release: str, hooks: Hooks) -> Policy:
    return Policy(
        wait_seconds=settings.wait_seconds,
        run_seconds=settings.run_seconds,
        poll_seconds=settings.poll_seconds,
        serve_ahead=settings.on_ahead == "serve",
        may_migrate=strategy is not Strategy.JOB,
        target=settings.target,
        release=release,
        baseline=settings.baseline,
        after=hooks.after is not None,
    )
