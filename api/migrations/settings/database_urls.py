"""The settings that say where the database is, and how to get its password."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from ..errors import ConfigurationError
from ..urls.database_url import EXAMPLE, DatabaseURL
from ..urls.password import FetchPassword

_IMPORT_PATH = re.compile(r"[\w.]+:[\w.]+")


def _named(variable: str) -> Any:
    return Field(None, validation_alias=AliasChoices(variable, variable.lower()))


class DatabaseURLs(BaseSettings):
    """The settings of the database's address; the base of `MigrationSettings`."""

    database_url: SecretStr | None = _named("DATABASE_URL")
    """The service's database. The migrations use it unless `migration_database_url` is set."""
    database_url_file: Path | None = _named("DATABASE_URL_FILE")
    """A file that contains `database_url`, such as a container's secret."""
    migration_database_url: SecretStr | None = _named("MIGRATION_DATABASE_URL")
    """The database for the migration session: a direct endpoint (no pooler), with the role that owns the schema."""
    migration_database_url_file: Path | None = _named("MIGRATION_DATABASE_URL_FILE")
    """A file that contains `migration_database_url`."""
    fetch_password: FetchPassword | str | None = Field(None, repr=False)
    """A function or coroutine function, or its import path `package.module:function`. It returns the password of the
    migration session's role, such as a cloud's token, and is called for each new connection."""

    @field_validator("fetch_password", mode="before")
    @classmethod
    def _function(cls, value: Any) -> Any:
        if value is None or callable(value) or (isinstance(value, str) and _IMPORT_PATH.fullmatch(value)):
            return value
        # without the value, which may be a password
        raise ValueError("is not the import path of a function. To fix: set it to package.module:function")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        for name in ("database_url", "migration_database_url"):
            if None not in (getattr(self, name), getattr(self, f"{name}_file")):
                variable = name.upper()
                raise ValueError(f"{variable} and {variable}_FILE are both set. To fix: unset one of them")
        return self

    def url(self) -> DatabaseURL:
        """Return the URL of the migration session. Raises `ConfigurationError` if it is not set or malformed."""
        own = url_of("MIGRATION_DATABASE_URL", self.migration_database_url, self.migration_database_url_file)
        url = own or self.service_url()
        if url is None:
            raise ConfigurationError(
                f"DATABASE_URL is not set. To fix: set it to {EXAMPLE}, in the environment or in .env"
            )
        return replace(url, fetch_password=self.fetch_password)

    def service_url(self) -> DatabaseURL | None:
        """Return the URL of the service, None if it is not set; the errors are those of `url`."""
        return url_of("DATABASE_URL", self.database_url, self.database_url_file)

    @property
    def has_url(self) -> bool:
        """Whether a URL is set."""
        return self.has_own_url or not (self.database_url is None and self.database_url_file is None)

    @property
    def has_own_url(self) -> bool:
        """Whether the migration session has a URL of its own."""
        return not (self.migration_database_url is None and self.migration_database_url_file is None)


def url_of(variable: str, value: SecretStr | None, file: Path | None) -> DatabaseURL | None:
    """Return the URL of a variable, or of the file that the variable with the suffix `_FILE` names.

    Raises `ConfigurationError` with the variable, and with the file's path, if it cannot be read or is malformed.
    """
    if file is not None:
        return DatabaseURL.parse(content_of(f"{variable}_FILE", file, EXAMPLE), name=f"{variable}_FILE ({file})")
    return None if value is None else DatabaseURL.parse(value.get_secret_value(), name=variable)


def content_of(variable: str, path: Path, example: str) -> str:
    """Return the content of the file that a variable names, without white space around it; `example` shows another.

    Raises `ConfigurationError` with the variable and the path if it cannot be read or is empty.
    """
    try:
        content = path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise ConfigurationError(
            f"{variable} names {path}, which cannot be read: {reason}. To fix: correct the path, or let the user of "
            "this process read the file"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{variable} names {path}, which is not UTF-8. To fix: save it as UTF-8") from None
    if not content:
        raise ConfigurationError(f"{variable} names {path}, which is empty. To fix: write {example} into it")
    return content
