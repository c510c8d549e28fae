"""The values of MIGRATION_STRATEGY."""

from enum import StrEnum


class Strategy(StrEnum):
    """How one instance is chosen to migrate."""

    AUTO = "auto"
    ADVISORY_LOCK = "advisory_lock"
    REDIS = "redis"
    KUBERNETES = "kubernetes"
    JOB = "job"
    OFF = "off"
