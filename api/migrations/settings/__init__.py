"""The settings: environment variables with the prefix `MIGRATION_`, checked against one another."""

from __future__ import annotations

import os
import re
import socket
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsConfigDict, SettingsError

from ..errors import ConfigurationError
from ..urls.database_url import REDIS_EXAMPLE, check_redis
from . import env_file
from .database_urls import DatabaseURLs
from .strategy import Strategy as Strategy

OPEN_PATHS = ("/health/live", "/health/ready", "/health/migrations", "/metrics")

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_KUBERNETES_NAMES = {"lease_name": rf"{_LABEL}(\.{_LABEL})*", "lease_namespace": _LABEL}

Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]


def default_instance() -> str:
    """Return host name and process id, by which a person finds the process."""
    return f"{socket.gethostname()}-{os.getpid()}"


class MigrationSettings(DatabaseURLs):
    """The settings; durations are in seconds. Use `load()`, whose errors are one line."""

    model_config = SettingsConfigDict(
        env_prefix="MIGRATION_",
        env_file=env_file.ENV_FILE,
        env_file_encoding=env_file.ENCODING,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    strategy: Strategy = Strategy.AUTO
    redis_url: SecretStr | None = None
    """The Redis of strategy `redis`: redis://, rediss:// or unix://."""
    redis_ttl_seconds: Annotated[float, Field(ge=3, le=3600)] = 30
    """How long the others wait after the holder died. The holder renews its hold every quarter of it."""
    startup_mode: Literal["gate", "block"] = "gate"
    wait_seconds: Seconds = 300
    """From the start to a verified schema, including the wait for the database."""
    run_seconds: Seconds = 300
    """From the lock, or from the end of the backup, to the last revision."""
    lock_timeout_seconds: Annotated[float, Field(ge=0, le=3600)] = 2
    """How long one statement of a revision may wait for a table lock and stall other sessions. 0 means no limit."""
    statement_timeout_seconds: Annotated[float, Field(ge=0, le=7 * 86400)] = 0
    """Limit of one statement of a revision. 0 means that only `run_seconds` limits it."""
    idle_seconds: Annotated[float, Field(ge=0, le=86400)] = 60
    """How long the migrating session may be idle between two statements; then the server terminates it, which releases
    the lock of a frozen process. Must exceed the time that any revision computes in Python. 0 means no limit."""
    drop_invalid_indexes: bool = False
    """Before an unfinished revision runs again, drop the INVALID indexes that it left."""
    backup_dir: str = "backups"
    """The folder of the backups of `migrate.sh`; created if missing, closed to other users."""
    backup_keep: Annotated[int, Field(ge=1, le=10_000)] = 5
    """How many backups of the database stay in the folder. A run never removes its own."""
    backup_seconds: Seconds = 3600
    """Limit of one backup, which comes before the run: it counts into `wait_seconds` of the waiters only."""
    poll_seconds: Annotated[float, Field(ge=0.05, le=60)] = 1
    """How often a waiter reads the version, plus or minus half; a notification wakes it sooner."""
    target: Literal["head", "heads"] = "head"
    """`heads` allows several heads; `head` refuses them before the database is touched."""
    baseline: str | None = None
    """The revision that a database with tables and without a revision is stamped with; `base` runs all revisions."""
    bootstrap: Literal["create_all"] | None = None
    """Whether a database without tables gets those of the models instead of all revisions."""
    before: str | None = None
    """`package.module:function`, called under the lock before the first revision of a run."""
    after: str | None = None
    """`package.module:function`, called under the lock once for each new head, after the last revision."""
    on_ahead: Literal["serve", "refuse"] = "serve"
    on_failure: Literal["exit", "hold"] = "exit"
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 0
    """How long a ready instance that receives SIGTERM serves on, unready, before the server shuts down."""
    lock_name: str = "fastapi"
    lease_name: Annotated[str, Field(max_length=253)] | None = None
    """The Lease of strategy `kubernetes`. Default: derived from `lock_name`."""
    lease_namespace: Annotated[str, Field(max_length=63)] | None = None
    """Default: that of the service account or of the kubeconfig's context."""
    lease_seconds: Annotated[int, Field(ge=3, le=3600)] = 15
    """How long other instances wait for a leader that does not renew. The leader gives up after two thirds of it."""
    version_table: str = "alembic_version"
    version_table_schema: str | None = None
    history_table: str | None = None
    """Default: the version table's name with the suffix `_history`."""
    instance: str = Field(default_factory=default_instance)
    release: str | None = None
    alembic_config: str = Field(
        "alembic.ini", validation_alias=AliasChoices("MIGRATION_ALEMBIC_CONFIG", "alembic_config")
    )
    """An ini file or a `pyproject.toml`; also read from ALEMBIC_CONFIG, as Alembic's command line does."""
    alembic_section: str = "alembic"
    """The section of the ini file, as in `alembic -n`."""
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    """Of the package's log lines. Default: the application's level, or `info` if logging is not configured."""
    open_paths: tuple[str, ...] = OPEN_PATHS
    """Paths that are served before the instance is ready: liveness probes, never your own readiness probe."""
    health_token: SecretStr | None = None
    health_token_file: Path | None = None
    """`/health/migrations` and `/metrics` require the token, or the content of the file, if one of them is set."""
    show_errors: bool = False
    """Whether `/health/migrations` shows the texts of exceptions, which may hold data."""

    @field_validator("lock_name", "instance", "version_table")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is blank. To fix: set a name, or unset the variable")
        return value.strip()

    @field_validator("instance", "release")
    @classmethod
    def _legible(cls, value: str | None) -> str | None:
        # Python decodes bytes that are not UTF-8 to characters that cannot be printed
        return value and "".join(c if c.isprintable() else "?" for c in value)[:255]

    @field_validator("version_table", "history_table", "version_table_schema")
    @classmethod
    def _identifier(cls, value: str | None) -> str | None:
        if value is not None and (len(value.encode()) > 63 or "\0" in value):
            raise ValueError("is not a valid PostgreSQL name. To fix: use at most 63 bytes, without NUL")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_redis(value.get_secret_value())
        return value

    def check_redis_ttl(self) -> None:
        """Raise `ValueError` if a waiter would time out before the hold of a dead instance ends."""
        if self.redis_ttl_seconds * 2 > self.wait_seconds:
            raise ValueError(
                f"MIGRATION_REDIS_TTL_SECONDS ({self.redis_ttl_seconds:g}) is more than half of MIGRATION_WAIT_SECONDS "
                f"({self.wait_seconds:g}): waiters would time out before they could replace a dead holder. To fix: "
                "lower the first or raise the second"
            )

    @field_validator("lease_name", "lease_namespace")
    @classmethod
    def _kubernetes_name(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not re.fullmatch(_KUBERNETES_NAMES[str(info.field_name)], value):
            raise ValueError(
                "is not a Kubernetes name. To fix: use lower-case letters, digits, and between them '-' (Lease: or '.')"
            )
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.strategy is Strategy.REDIS:
            if self.redis_url is None:
                raise ValueError(f"MIGRATION_STRATEGY=redis needs MIGRATION_REDIS_URL. To fix: use {REDIS_EXAMPLE}")
            self.check_redis_ttl()
        if self.wait_seconds < self.run_seconds:
            raise ValueError(
                f"MIGRATION_WAIT_SECONDS ({self.wait_seconds:g}) is shorter than MIGRATION_RUN_SECONDS "
                f"({self.run_seconds:g}): waiters would time out during the migration. To fix: raise the first or "
                "lower the second"
            )
        if self.strategy is Strategy.KUBERNETES and self.lease_seconds >= self.wait_seconds:
            raise ValueError(
                f"MIGRATION_LEASE_SECONDS ({self.lease_seconds}) is not shorter than MIGRATION_WAIT_SECONDS "
                f"({self.wait_seconds:g}): waiters would time out before the Lease of a dead leader is free. To fix: "
                "lower the first or raise the second"
            )
        if self.bootstrap is not None and self.baseline == "base":
            raise ValueError("MIGRATION_BOOTSTRAP contradicts MIGRATION_BASELINE=base. To fix: unset one of them")
        if self.version_table.casefold() == self.history.casefold():
            raise ValueError(
                "MIGRATION_HISTORY_TABLE and MIGRATION_VERSION_TABLE are the same name, or differ in case only, which "
                "SQLite and some MySQL servers ignore. To fix: set two different names"
            )
        if len(self.history.encode()) > 63:
            raise ValueError(
                "MIGRATION_VERSION_TABLE with the suffix _history exceeds 63 bytes. To fix: set MIGRATION_HISTORY_TABLE"
            )
        return self

    @property
    def history(self) -> str:
        """The name of the history table."""
        return self.history_of(self.version_table)

    def history_of(self, version_table: str) -> str:
        """Return the name of the history table for a version table."""
        return self.history_table or f"{version_table}_history"

    @classmethod
    def load(cls, **values: Any) -> Self:
        """Read the environment and `.env`; `values` win. Raises `ConfigurationError`, in one line, for all errors."""
        try:
            with nullcontext() if values.get("_env_file", ...) is None else env_file.checked():
                return cls(**values)
        except ValidationError as error:
            raise ConfigurationError("; ".join(_line(item) for item in error.errors())) from None
        except SettingsError:
            # the other settings are plain text
            message = 'MIGRATION_OPEN_PATHS is not a JSON list. To fix: use ["/health/live", …]'
            raise ConfigurationError(message) from None

    @classmethod
    def load_partial(cls, *names: str) -> MigrationSettings:
        """Load the named settings only; the others may be invalid.

        If `.env` cannot be read, they come from the environment; if one of them is invalid there, from the defaults.
        """
        defaults = cls.model_construct()
        others = defaults.model_dump(exclude=set(names))
        for source in ({}, {"_env_file": None}):
            with suppress(ConfigurationError):
                return cls.load(**others, **source)
        return defaults

    @property
    def about_the_version_table(self) -> dict[str, str | None]:
        """The settings about the version table that are set, by the names of their variables."""
        names = ("version_table", "version_table_schema")
        return {f"MIGRATION_{name.upper()}": getattr(self, name) for name in names if name in self.model_fields_set}

    def for_version_table(self, name: str, schema: str | None, database_url: str | None = None) -> Self:
        """Return these settings for another version table, and another database if `database_url` is not None.

        Raises `ConfigurationError` if the name is too long or the URL is malformed.
        """
        values = {**self.model_dump(), "version_table": name, "version_table_schema": schema}
        if database_url is not None:
            values |= {name: None for name in DatabaseURLs.model_fields} | {"database_url": database_url}
        return self.load(**values)


def _line(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    variable = name if "DATABASE_URL" in name else f"MIGRATION_{name.upper()}"
    value = "" if re.search("url|password|token", name, re.IGNORECASE) else f"={error['input']!r}"
    return f"{variable}{value}{' ' if error['type'] == 'value_error' else ' is invalid: '}{message}"
