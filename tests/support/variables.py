"""The environment variables of the settings."""

from api.migrations.settings import MigrationSettings


def variable(field: str) -> str:
    """Return the environment variable of a field of `MigrationSettings`."""
    return field.upper() if "database_url" in field else f"MIGRATION_{field.upper()}"


def variables() -> set[str]:
    """Return the environment variables of all settings."""
    return {variable(field) for field in MigrationSettings.model_fields}
