"""Settings of the package: environment variables with the prefix `MIGRATION_`, checked against one another."""

from __future__ import annotations

import os
import re
import socket
from contextlib import nullcontext, suppress
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from ..errors import ConfigurationError
from ..urls.database_url import EXAMPLE, REDIS_EXAMPLE, DatabaseURL, check_redis
from . import env_file

OPEN_PATHS = ("/health/live", "/health/ready", "/health/migrations", "/metrics")

DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"

Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]


class Strategy(StrEnum):
    """Who migrates, and how the others find out."""

    AUTO = "auto"
    ADVISORY_LOCK = "advisory_lock"
    REDIS = "redis"
    KUBERNETES = "kubernetes"
    JOB = "job"
    OFF = "off"


def default_instance() -> str:
    """Host name and process id: unique enough to find the process that holds the lock."""
    return f"{socket.gethostname()}-{os.getpid()}"


class MigrationSettings(BaseSettings):
    """What can be set. Durations are in seconds.

    Use `load()`; it raises `ConfigurationError` with one readable line instead of a validation report.
    """

    model_config = SettingsConfigDict(
        env_prefix="MIGRATION_",
        env_file=env_file.ENV_FILE,
        env_file_encoding=env_file.ENCODING,
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        frozen=True,
    )

    database_url: SecretStr | None = Field(None, validation_alias=AliasChoices("DATABASE_URL", "database_url"))
    """The service's database; migrations use it unless `migration_database_url` is given."""
    migration_database_url: SecretStr | None = Field(
        None, validation_alias=AliasChoices("MIGRATION_DATABASE_URL", "migration_database_url")
    )
    """The migration session's own URL: a direct endpoint (no pooler), the role that owns the schema."""
    strategy: Strategy = Strategy.AUTO
    redis_url: SecretStr | None = None
    """The Redis of strategy `redis`: redis://, rediss:// or unix://."""
    redis_ttl_seconds: Annotated[float, Field(ge=3, le=3600)] = 30
    """How long the others wait for an instance that died; it renews its hold every quarter of that."""
    startup_mode: Literal["gate", "block"] = "gate"
    wait_seconds: Seconds = 300
    """From start to a verified schema; includes waiting for the database to come up."""
    run_seconds: Seconds = 300
    """From taking the lock, or from the end of the backup, to the last revision."""
    lock_timeout_seconds: Annotated[float, Field(ge=0, le=3600)] = 2
    """How long one statement of a revision may queue for a table lock, and so stall everybody behind it.
    At least 1.5 s gets past autovacuum, which yields only at the deadlock check after 1 s. 0 is no limit."""
    statement_timeout_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] = 0
    """Limit of one statement of a revision; 0 leaves `run_seconds` as the only one."""
    idle_seconds: Annotated[float, Field(ge=0, le=86400)] = 60
    """How long the migrating session may do nothing between two statements before the server ends it, lock and all:
    what frees the lock of a process that was stopped. More than any revision computes in Python. 0 is no limit."""
    drop_invalid_indexes: bool = False
    """Before a revision that did not finish runs again, drop the INVALID indexes that it left behind."""
    backup_dir: str = "backups"
    """Folder of the backups that `migrate.sh` takes; made if need be, closed to everybody else."""
    backup_keep: Annotated[int, Field(ge=1, le=10_000)] = 5
    """How many backups of the database stay in the folder; those of the run that prunes are never removed."""
    backup_seconds: Seconds = 3600
    """Limit of one backup. It comes before the run and does not count against `run_seconds`; those who wait for the
    lock wait for both within their `wait_seconds`."""
    poll_seconds: Annotated[float, Field(ge=0.05, le=60)] = 1
    """How often a waiting instance looks, give or take half; a notification wakes it sooner."""
    target: Literal["head", "heads"] = "head"
    """`heads` allows several heads in one tree; with `head` they are refused before the database is touched."""
    on_ahead: Literal["serve", "refuse"] = "serve"
    on_failure: Literal["exit", "hold"] = "exit"
    lock_name: str = "fastapi"
    lease_name: Annotated[str, Field(max_length=253)] | None = None
    """Of the Lease, with the strategy kubernetes; unset it is derived from `lock_name`."""
    lease_namespace: Annotated[str, Field(max_length=63)] | None = None
    """Unset it is the service account's, or that of the kubeconfig's context."""
    lease_seconds: Annotated[int, Field(ge=3, le=3600)] = 15
    """How long the others wait for a leader that renews nothing. It gives up after two thirds of that, which is also
    how long the Kubernetes API may be away."""
    version_table: str = "alembic_version"
    version_table_schema: str | None = None
    history_table: str | None = None
    """Defaults to the version table's name with `_history` behind it."""
    instance: str = Field(default_factory=default_instance)
    release: str | None = None
    alembic_config: str = "alembic.ini"
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    """Of the package's own lines; unset it is what the application set, and `info` where nobody configured logging."""
    open_paths: tuple[str, ...] = OPEN_PATHS
    """Paths that are served before the instance is ready: liveness probes, never readiness of your own."""

    @field_validator("lock_name", "instance", "version_table")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be blank")
        return value.strip()

    @field_validator("instance", "release")
    @classmethod
    def _legible(cls, value: str | None) -> str | None:
        # both stand in logs and in the history table; a variable that is not UTF-8 is half a character to Python
        legible = "".join(c if c.isprintable() else "?" for c in value or "")
        return legible[:255] if value is not None else None

    @field_validator("version_table", "history_table", "version_table_schema")
    @classmethod
    def _identifier(cls, value: str | None) -> str | None:
        if value is not None and (len(value.encode()) > 63 or "\0" in value):
            raise ValueError("is longer than PostgreSQL's 63 bytes for a name")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_redis(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _agree_on_redis(self) -> Self:
        if self.strategy is not Strategy.REDIS:
            return self
        if self.redis_url is None:
            raise ValueError(f"MIGRATION_STRATEGY=redis needs MIGRATION_REDIS_URL; set it to {REDIS_EXAMPLE}")
        self.check_redis_ttl()
        return self

    def check_redis_ttl(self) -> None:
        """Make sure that an instance can outlive the hold of one that died.

        Raises:
            ValueError: it would give up before.
        """
        if self.redis_ttl_seconds * 2 > self.wait_seconds:
            raise ValueError(
                f"MIGRATION_REDIS_TTL_SECONDS ({self.redis_ttl_seconds:g}) is more than half of MIGRATION_WAIT_SECONDS "
                f"({self.wait_seconds:g}): instances would give up before they could succeed one that died; "
                "lower the first or raise the second"
            )

    @field_validator("lease_name")
    @classmethod
    def _subdomain(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(rf"{DNS_LABEL}(\.{DNS_LABEL})*", value):
            raise ValueError("must be small letters, digits, '-' and '.', as Kubernetes names a Lease")
        return value

    @field_validator("lease_namespace")
    @classmethod
    def _label(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(DNS_LABEL, value):
            raise ValueError("must be small letters, digits and '-', as Kubernetes names a namespace")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.wait_seconds < self.run_seconds:
            raise ValueError(
                f"MIGRATION_WAIT_SECONDS ({self.wait_seconds:g}) is shorter than MIGRATION_RUN_SECONDS "
                f"({self.run_seconds:g}): instances would give up on a migration that is still allowed to run; "
                "raise the first or lower the second"
            )
        if self.strategy is Strategy.KUBERNETES and self.lease_seconds >= self.wait_seconds:
            raise ValueError(
                f"MIGRATION_LEASE_SECONDS ({self.lease_seconds}) is not shorter than MIGRATION_WAIT_SECONDS "
                f"({self.wait_seconds:g}): instances would give up before a dead leader's Lease is free; "
                "lower the first or raise the second"
            )
        if self.version_table.casefold() == self.history.casefold():
            raise ValueError(
                "MIGRATION_HISTORY_TABLE and MIGRATION_VERSION_TABLE must differ, and not in case alone: to SQLite, "
                "and to MySQL on some hosts, that is one name"
            )
        if len(self.history.encode()) > 63:
            raise ValueError(
                "MIGRATION_VERSION_TABLE leaves no room for _history behind it; set MIGRATION_HISTORY_TABLE"
            )
        return self

    @property
    def history(self) -> str:
        """The name of the history table."""
        return self.history_of(self.version_table)

    def history_of(self, version_table: str) -> str:
        """The name of the history table beside a version table."""
        return self.history_table or f"{version_table}_history"

    @classmethod
    def load(cls, **values: Any) -> Self:
        """Read the environment and `.env`; `values` win.

        Raises:
            ConfigurationError: one line that names the variable and what it may be, or the file that cannot be read.
        """
        try:
            with nullcontext() if values.get("_env_file", ...) is None else env_file.checked():
                return cls(**values)
        except ValidationError as error:
            raise ConfigurationError("; ".join(_line(dict(item)) for item in error.errors())) from None
        except SettingsError:
            # the only setting that is not plain text
            raise ConfigurationError('MIGRATION_OPEN_PATHS is not a JSON list; expected ["/health/live", …]') from None

    @classmethod
    def load_partial(cls, *names: str) -> MigrationSettings:
        """Only the named settings of the environment, for when the others cannot be read or do not matter yet.

        Where `.env` cannot be read, they are the environment's; where one of these cannot be read, the defaults.
        """
        defaults = cls.model_construct()
        others = defaults.model_dump(exclude=set(names))
        for source in ({}, {"_env_file": None}):
            with suppress(ConfigurationError):
                return cls.load(**others, **source)
        return defaults

    @property
    def about_the_version_table(self) -> dict[str, str | None]:
        """The value of each setting about the version table that was set, by its name."""
        names = ("version_table", "version_table_schema")
        return {f"MIGRATION_{name.upper()}": getattr(self, name) for name in names if name in self.model_fields_set}

    def for_version_table(self, name: str, schema: str | None) -> Self:
        """These settings about another version table.

        Raises:
            ConfigurationError: it leaves no room for the history table's name.
        """
        return self.load(**{**self.model_dump(), "version_table": name, "version_table_schema": schema})

    def url(self) -> DatabaseURL:
        """The URL of the migration session.

        Raises:
            ConfigurationError: none is set, or it is malformed.
        """
        if self.migration_database_url is not None:
            return DatabaseURL.parse(self.migration_database_url.get_secret_value(), name="MIGRATION_DATABASE_URL")
        if self.database_url is not None:
            return DatabaseURL.parse(self.database_url.get_secret_value())
        raise ConfigurationError(f"DATABASE_URL is not set; set it to {EXAMPLE}, in the environment or in .env")


def _line(item: dict[str, Any]) -> str:
    name = str(item["loc"][0]) if item["loc"] else ""
    variable = name if name.endswith("DATABASE_URL") or not name else f"MIGRATION_{name.upper()}"
    what = re.sub(r"^Value error, ", "", str(item["msg"]))
    given = f" (it is {item['input']!r})" if name and "url" not in name.lower() else ""
    return f"{variable}: {what}{given}" if variable else what
