"""The environment variables of the settings."""


def variable(field: str) -> str:
    """Return the environment variable of a field of `MigrationSettings`."""
    return field.upper() if field.endswith("database_url") else f"MIGRATION_{field.upper()}"
