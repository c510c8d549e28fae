"""The service's own settings; those of the migrations are `api.migrations.settings`."""

from __future__ import annotations

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What the ledger needs to serve."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    database_url: SecretStr = SecretStr("")
    """Checked by the migrations before the service's pool is made from it."""
