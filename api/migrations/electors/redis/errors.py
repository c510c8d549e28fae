"""The errors of the Redis client, translated in one place: may it be tried again, what should a person do.

Nothing of the client's own text is passed on: it names the host, and some servers repeat the command with its values.
"""

from __future__ import annotations

import ssl

from redis import exceptions as theirs
from redis.exceptions import RedisError

from ...errors import AccessRefused, ConfigurationError, ElectorUnreachable, MigrationError, causes

_TRY_AGAIN = {
    "LOADING": "it is still loading its data",
    "READONLY": "it is a replica and takes no writes; if no failover is going on, point MIGRATION_REDIS_URL at the "
    "primary",
    "OOM": "its memory is full: raise its maxmemory or free some",
    "MISCONF": "it takes no writes because it cannot save to its disk: free or add space there",
    "MASTERDOWN": "it is a replica without its primary",
    "NOREPLICAS": "it takes no writes without more replicas (min-replicas-to-write)",
    "CLUSTERDOWN": "its cluster is down",
    "TRYAGAIN": "its cluster is moving keys",
    "BUSY": "it is busy with somebody's script",
}
_SAID_NO = {
    "WRONGPASS": "Redis does not accept this user or password; correct MIGRATION_REDIS_URL",
    "NOAUTH": "Redis asks for a password; put it into MIGRATION_REDIS_URL",
    "DENIED": "Redis runs in protected mode and takes connections from its own host only; give it a password, and put "
    "that into MIGRATION_REDIS_URL",
    "NOPERM": "the Redis user lacks a permission; on the keys fastapi-migrations:* it needs the commands SET, GET, "
    "DEL, PEXPIRE, EVALSHA and SCRIPT LOAD",
}
_CLUSTER = frozenset({"MOVED", "ASK"})


def code(error: BaseException) -> str:
    """The word in capitals with which Redis begins an error, or an empty string."""
    known = getattr(error, "status_code", None)
    if known:
        return str(known)
    first = str(error).partition(" ")[0]
    return first if isinstance(error, RedisError) and first.isalpha() and first.isupper() else ""


def translate(error: RedisError | OSError, doing: str) -> MigrationError:
    """The `MigrationError` for an error of the client or the network while `doing` something (a phrase)."""
    word, certificate = code(error), _certificate(error)
    if certificate is not None:
        return AccessRefused(
            f"the certificate of Redis does not verify ({certificate.verify_message}); give its CA as ssl_ca_certs in "
            "MIGRATION_REDIS_URL"
        )
    if word in _SAID_NO or isinstance(error, theirs.AuthenticationError | theirs.AuthorizationError):
        return AccessRefused(_SAID_NO.get(word, _SAID_NO["WRONGPASS"]))
    if word in _CLUSTER:
        return ConfigurationError(
            "MIGRATION_REDIS_URL names a node of a Redis Cluster; use a Redis that is not one, or another strategy"
        )
    why = describe(error)
    if _transient(error, word):
        remedy = "" if word else "; make sure that it runs, and that MIGRATION_REDIS_URL leads to it from here"
        return ElectorUnreachable(f"no answer of Redis while {doing}: {why}{remedy}")
    return MigrationError(f"Redis failed while {doing}: {why}; see the log of the Redis server")


def describe(error: RedisError | OSError) -> str:
    """What went wrong, in a few words without host or values."""
    word = code(error)
    if word in _TRY_AGAIN:
        return _TRY_AGAIN[word]
    if "max number of clients" in str(error):
        return "it has no free connection (maxclients)"
    if _no_such_database(error):
        return "it does not have the database number of MIGRATION_REDIS_URL"
    if isinstance(error, TimeoutError | theirs.TimeoutError):
        return "it did not answer in time"
    if _transient(error, word):
        return "there is no connection to it"
    return f"{type(error).__name__} {word}".strip()


def _transient(error: RedisError | OSError, word: str) -> bool:
    if _no_such_database(error):
        return False
    return word in _TRY_AGAIN or isinstance(error, OSError | theirs.ConnectionError | theirs.TimeoutError)


def _no_such_database(error: BaseException) -> bool:
    return "Invalid Database" in str(error) or "DB index is out of range" in str(error)


def _certificate(error: BaseException) -> ssl.SSLCertVerificationError | None:
    # the client keeps only its text
    return next((cause for cause in causes(error) if isinstance(cause, ssl.SSLCertVerificationError)), None)
