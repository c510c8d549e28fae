"""The composition root: builds a coordinator from the settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .core.clock import SystemClock
from .core.coordinator import Coordinator
from .core.decision import Policy
from .core.elected_session import ElectedSession
from .core.protocols import Elector, MigrationSession, OperatorSession
from .core.schema import Schema
from .core.scope import Scope
from .core.status import Tracker
from .databases.backend import Backend
from .databases.registry import backend_of, backup_of
from .electors.registry import elector_of, hold_name
from .electors.strategy import Choice, choose
from .errors import ConfigurationError
from .execution.env_options import Pass, Target, VersionTable, refuse_unnamed, scope_names
from .execution.env_text import may_run_several
from .execution.hooks import Function, Hooks
from .execution.lock_retry import LockRetrySchedule
from .execution.revisions import Revisions
from .execution.runner import Runner
from .parts import database_names, new_tracker, policy_of, revisions_of, runner_of
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
    """The assemblies of the other version tables, if there are several."""
    name: str | None = None
    """The name of the version table for people, such as "schema shop", if there are several."""
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
        revisions = revisions or revisions_of(settings, may_be_empty)
        if revisions.ambiguous and not ambiguous:
            raise ConfigurationError(revisions.ambiguous)
        if settings.baseline is not None and settings.strategy is not Strategy.OFF:
            revisions.check_baseline(settings.baseline)
        release = settings.release or revisions.fingerprint
        tracker = tracker or new_tracker(settings)
        tracker.note(strategy=str(choice.strategy), release=release, schema=Schema(heads=revisions.code.heads))
        tracker.note(dialect=url.dialect, lock_key=database.lock_name, holder_kind=database.holder_kind)
        hooks = hooks or Hooks.of(settings.before, settings.after)
        runner = runner_of(settings, revisions, release, only, own_connection, hooks)
        policy = policy_of(settings, choice.strategy, release, hooks)
        schedule = LockRetrySchedule(partial(revisions.limits, session=database.limits))
        elector = elector_of(settings, choice.strategy, url)
        return cls(settings, database, choice, revisions, runner, tracker, policy, schedule, elector)

    @classmethod
    def of_databases(
        cls, databases: Sequence[MigrationSettings], tracker: Tracker, before: Function | None, after: Function | None
    ) -> Assembly:
        """Return the assembly of the first database with those of the others as `further`.

        Raises:
            ConfigurationError: as `build` does; or two databases have neither a section nor a name of their own.
        """
        names = database_names(databases)
        found: list[Assembly] = []
        for settings, name in zip(databases, names, strict=True):
            hooks = Hooks.of(before or settings.before, after or settings.after)
            try:
                found.append(replace(cls.build(settings, None if found else tracker, hooks=hooks), name=name))
            except ConfigurationError as error:
                if name is not None:
                    error.name_scope(name)
                raise
        return replace(found[0], further=tuple(found[1:]))

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
        found = [one for each in self.each.values() for one in await each._inspected(create_file, ambiguous)]
        return replace(found[0], further=tuple(found[1:]))

    async def _inspected(self, create_file: bool, ambiguous: bool) -> list[Assembly]:
        # at head, a start needs neither Alembic nor what executes env.py
        from .execution.env_inspection import Wanted, inspect_env

        self.runner.hooks.load()
        default = VersionTable(self.settings.version_table, self.settings.version_table_schema)
        database = self.database
        options = {"transaction_per_migration": True, "transactional_ddl": database.transactional_ddl}
        connect = partial(database.sql_connection, create_file=create_file)
        wanted = Wanted(default, self.settings.about_the_version_table, options, self.policy.create_all)
        inspected = await inspect_env(self.revisions, database.engine_url, database.url.connecting, connect, wanted)
        revisions, targets = self.revisions.as_env_leaves_them(), inspected.targets
        refuse_unnamed(targets, database.url.database)
        return [
            replace(
                Assembly.build(
                    self._settings_for(target, targets),
                    self.tracker if target is targets[0] else None,
                    ambiguous=ambiguous,
                    revisions=revisions,
                    only=Pass(target, default) if len(targets) > 1 else None,
                    own_connection=inspected.own_connection,
                    hooks=self.runner.hooks,
                ),
                inspected=True,
                name=", ".join(filter(None, (self.name, name))) or None,
            )
            for target, name in zip(targets, scope_names(targets), strict=True)
        ]

    def _settings_for(self, target: Target, targets: Sequence[Target]) -> MigrationSettings:
        url, here = target.url, self.database.url.database
        # the URL of the settings may have another host for the same database, or another role
        is_here = len({one.url for one in targets if one.url is not None and one.url.database == here}) == 1
        known = url is None or (is_here and url.database == here)
        text = None if known or url is None else url.render_as_string(hide_password=False)
        return self.settings.for_version_table(target.table.name, target.table.schema, text)

    @property
    def each(self) -> dict[str, Assembly]:
        """One assembly for each version table, by its name; by "" if there is one."""
        return {one.name or "": one for one in (replace(self, further=()), *self.further)}

    def session(self, role: str = "waiting", backup: Backup | None = None) -> OperatorSession:
        """Return a new, unconnected session; its application name contains `role`."""
        return self.database.session(self.runner, self.schedule, role, backup, create_file=role != "reading")

    def locking_session(
        self, backup: Backup | None = None, *, create_file: bool = True, role: str = "waiting"
    ) -> MigrationSession:
        """Return a new session that acquires the lock; `create_file` allows it to create a missing SQLite file."""
        if self.elector is None:
            return self.database.session(self.runner, self.schedule, role, backup, create_file=create_file)
        elector = self.elector()
        # the run is synchronous and may be in another thread
        runner = self.runner.fenced(lambda: wait_on_loop(elector.confirm))
        session = self.database.session(runner, self.schedule, role, backup, create_file=create_file)
        return ElectedSession(session, elector)

    def backup(self, folder: str | None = None) -> Backup:
        """Return a backup into `folder` (default: MIGRATION_BACKUP_DIR).

        Raises `ConfigurationError` if this package makes no backups of this database, or there are several databases.
        """
        if any(one.database.url.dsn != self.database.url.dsn for one in self.further):
            raise ConfigurationError(
                f"a backup contains one database, and env.py migrates several: {', '.join(self.each)}. To fix: back "
                "each up with pg_dump, then run the command without the backup"
            )
        return backup_of(self.database, folder, self.runner.history, self.runner.author)

    def coordinator(
        self, policy: Policy | None = None, backup: Backup | None = None, *, looks: bool = False
    ) -> Coordinator:
        """Return a coordinator, whose wait budget starts now; it makes the `backup` before it changes anything.

        One that `looks` reads each schema once, judges it by the policy of its own database, and never migrates.
        """

        async def inspect() -> list[Scope]:
            create_file = (policy or self.policy).may_migrate and not looks
            return (await self.inspect(create_file=create_file))._scopes(policy, backup, looks)

        scopes = self._scopes(policy, backup, looks)
        budget = scopes[0].policy
        if self.inspected:
            return Coordinator(scopes, self.tracker, budget, SystemClock(), looks=looks)
        unclear = any(one.revisions.incomplete is not None or one._may_run_several for one in self.each.values())
        return Coordinator([] if unclear else scopes, self.tracker, budget, SystemClock(), inspect, looks=looks)

    @property
    def _may_run_several(self) -> bool:
        return may_run_several(self.revisions.env_py)

    def _scopes(self, policy: Policy | None, backup: Backup | None, looks: bool) -> list[Scope]:
        scopes, role = [], "reading" if looks else "waiting"
        for one in self.each.values():
            own = policy or one.policy
            if looks:
                own = replace(own, may_migrate=False, wait_seconds=0.0)
            sessions = partial(one.locking_session, backup, create_file=own.may_migrate, role=role)
            scopes.append(Scope(sessions, one.revisions.code, own, one.name, one._facts))
            # one backup contains all schemas
            backup = None
        return scopes

    @property
    def _facts(self) -> dict[str, Any]:
        status, names = self.tracker.status, ("strategy", "run_budget_seconds", "dialect", "lock_key", "holder_kind")
        return {name: getattr(status, name) for name in names}

    def operator_coordinator(self) -> Coordinator:
        """Return a coordinator for an operator's command, which may migrate with strategy `job` too."""
        return self.coordinator(replace(self.policy, may_migrate=True))
