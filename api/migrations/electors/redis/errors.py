"""Translates the errors of the Redis client: whether to retry, and what to fix.

The client's own text is not repeated: it names the host, and some servers quote the command with its values.
"""

from __future__ import annotations

import ssl

from redis import exceptions as theirs
from redis.exceptions import RedisError

from ...errors import AccessRefused, ConfigurationError, ElectorUnreachable, MigrationError, causes

_TRANSIENT = {
    "LOADING": "Redis is still loading its data",
    "READONLY": "Redis is a replica and accepts no writes. To fix: unless a failover is under way, point "
    "MIGRATION_REDIS_URL at the primary",
    "OOM": "the memory of Redis is full. To fix: raise its maxmemory, or free memory",
    "MISCONF": "Redis accepts no writes because it cannot save to its disk. To fix: free or add disk space there",
    "MASTERDOWN": "Redis is a replica without its primary",
    "NOREPLICAS": "Redis accepts no writes because it has too few replicas (min-replicas-to-write)",
    "CLUSTERDOWN": "the Redis Cluster is down",
    "TRYAGAIN": "the Redis Cluster is moving keys",
    "BUSY": "Redis is running another client's script",
}
_REFUSED = {
    "WRONGPASS": "Redis does not accept the user or password. To fix: correct MIGRATION_REDIS_URL",
    "NOAUTH": "Redis requires a password. To fix: add it to MIGRATION_REDIS_URL",
    "DENIED": "Redis runs in protected mode and accepts connections from its own host only. To fix: set a password in "
    "Redis, and add it to MIGRATION_REDIS_URL",
    "NOPERM": "the Redis user lacks a permission. To fix: on the keys fastapi-migrations:*, grant it the commands SET, "
    "GET, DEL, PEXPIRE, EVALSHA and SCRIPT LOAD",
}
_CLUSTER = frozenset({"MOVED", "ASK"})


def code(error: BaseException) -> str:
    """Return the word in capitals with which Redis begins an error, or an empty string."""
    known = getattr(error, "status_code", None)
    if known:
        return str(known)
    first = str(error).partition(" ")[0]
    return first if isinstance(error, RedisError) and first.isalpha() and first.isupper() else ""


def migration_error(error: RedisError | OSError, doing: str) -> MigrationError:
    """Return the `MigrationError` for an error of the client or the network while `doing` something (a phrase)."""
    word, certificate = code(error), _certificate(error)
    if certificate is not None:
        return AccessRefused(
            f"the certificate of Redis does not verify ({certificate.verify_message}). To fix: give its CA as "
            "ssl_ca_certs in MIGRATION_REDIS_URL"
        )
    if word in _REFUSED or isinstance(error, theirs.AuthenticationError | theirs.AuthorizationError):
        return AccessRefused(_REFUSED.get(word, _REFUSED["WRONGPASS"]))
    if word in _CLUSTER:
        return ConfigurationError(
            "MIGRATION_REDIS_URL names a node of a Redis Cluster, which is not supported. To fix: use a Redis that is "
            "not a cluster, or another MIGRATION_STRATEGY"
        )
    failed = f"{doing} failed: {describe(error)}"
    if _transient(error, word):
        reach = ". To fix: make sure that Redis runs, and that MIGRATION_REDIS_URL leads to it from here"
        return ElectorUnreachable(failed if word else failed + reach)
    remedy = "correct that number" if _no_such_database(error) else "see the log of the Redis server"
    return MigrationError(f"{failed}. To fix: {remedy}")


def describe(error: RedisError | OSError) -> str:
    """Say what went wrong, without host or values."""
    word = code(error)
    if word in _TRANSIENT:
        return _TRANSIENT[word]
    if "max number of clients" in str(error):
        return "Redis has no free connection (maxclients)"
    if _no_such_database(error):
        return "Redis does not have the database number of MIGRATION_REDIS_URL"
    if isinstance(error, TimeoutError | theirs.TimeoutError):
        return "Redis did not answer in time"
    if _transient(error, word):
        return "there is no connection to Redis"
    return f"{type(error).__name__} {word}".strip()


def _transient(error: RedisError | OSError, word: str) -> bool:
    retryable = isinstance(error, OSError | theirs.ConnectionError | theirs.TimeoutError)
    return (word in _TRANSIENT or retryable) and not _no_such_database(error)


def _no_such_database(error: BaseException) -> bool:
    return "Invalid Database" in str(error) or "DB index is out of range" in str(error)


def _certificate(error: BaseException) -> ssl.SSLCertVerificationError | None:
    # the client keeps only its text
    return next((cause for cause in causes(error) if isinstance(cause, ssl.SSLCertVerificationError)), None)
