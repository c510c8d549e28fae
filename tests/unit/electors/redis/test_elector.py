"""The parts of the Redis elector that need no server."""

import ssl
import traceback

import pytest
from redis import exceptions as theirs

from api.migrations.electors.redis.checks import evicts
from api.migrations.electors.redis.elector import RedisElector
from api.migrations.electors.redis.errors import migration_error
from api.migrations.errors import AccessRefused, ConfigurationError, ElectorUnreachable, HoldLost, MigrationError

TTL = 30.0


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (theirs.ConnectionError("Error 111 connecting to dbhost:1"), ElectorUnreachable, "there is no connection"),
        (theirs.TimeoutError("Timeout reading from dbhost:1"), ElectorUnreachable, "did not answer in time"),
        (TimeoutError(), ElectorUnreachable, "did not answer in time"),
        (ConnectionResetError(104, "dbhost"), ElectorUnreachable, "there is no connection"),
        (theirs.ConnectionError("max number of clients reached", status_code="ERR"), ElectorUnreachable, "maxclients"),
        (theirs.BusyLoadingError("Redis is loading", status_code="LOADING"), ElectorUnreachable, "loading"),
        (theirs.ReadOnlyError("You can't write", status_code="READONLY"), ElectorUnreachable, "at the primary"),
        (theirs.OutOfMemoryError("command not allowed", status_code="OOM"), ElectorUnreachable, "maxmemory"),
        (theirs.MasterDownError("MASTERDOWN Link with MASTER is down"), ElectorUnreachable, "without its primary"),
        (theirs.ClusterDownError("CLUSTERDOWN The cluster is down"), ElectorUnreachable, "Cluster is down"),
        (theirs.ResponseError("MISCONF dbhost"), ElectorUnreachable, "cannot save to its disk"),
        (theirs.AuthenticationError("dbhost", status_code="WRONGPASS"), AccessRefused, "user or password"),
        (theirs.AuthenticationError("dbhost", status_code="NOAUTH"), AccessRefused, "requires a password"),
        (theirs.AuthenticationError("ERR dbhost"), AccessRefused, "user or password"),
        (theirs.NoPermissionError("dbhost", status_code="NOPERM"), AccessRefused, "lacks a permission"),
        (theirs.ResponseError("DENIED Redis is running in protected mode"), AccessRefused, "protected mode"),
        (theirs.ConnectionError("Invalid Database"), MigrationError, "database number"),
        (theirs.MovedError("1 dbhost:1", status_code="MOVED"), ConfigurationError, "Redis Cluster"),
        (theirs.ResponseError("ERR unknown command, with args beginning with: dbhost"), MigrationError, "ERR"),
    ],
)
def test_an_error_of_redis_has_a_remedy_and_no_host(
    error: theirs.RedisError | OSError, kind: type[MigrationError], message: str
) -> None:
    """A transient error is retryable, a refusal is not, and neither repeats the client's text with the host."""
    translated = migration_error(error, "asking")
    assert type(translated) is kind
    assert message in str(translated)
    assert "Redis" in str(translated)
    assert "dbhost" not in str(translated)


def test_an_invalid_certificate_is_not_retried() -> None:
    """A certificate that fails verification is a final error, although the client raises a connection error."""
    error = theirs.ConnectionError("Error connecting to dbhost")
    error.__context__ = ssl.SSLCertVerificationError("certificate verify failed: self-signed certificate")
    error.__context__.verify_message = "self-signed certificate"
    assert isinstance(migration_error(error, "asking"), AccessRefused)


@pytest.mark.parametrize(
    ("policy", "maxmemory", "found"),
    [
        ("noeviction", 1, None),
        ("allkeys-lru", 1, "allkeys-lru"),
        ("volatile-ttl", 1, "volatile-ttl"),
        ("volatile-ttl", 0, None),
    ],
)
def test_keys_are_evicted_only_with_a_policy_and_a_limit(policy: str, maxmemory: int, found: str | None) -> None:
    """Redis may evict the key only if both an eviction policy and maxmemory are set."""
    assert evicts({"maxmemory_policy": policy, "maxmemory": maxmemory}) == found
    assert evicts({}) is None


@pytest.mark.parametrize("query", ["socket_timeout=geh3im", "geh3im=1", "ssl_cert_reqs=geh3im"])
def test_an_unknown_url_parameter_is_refused(query: str) -> None:
    """The elector refuses an unknown parameter of the URL without repeating its value."""
    with pytest.raises(ConfigurationError, match="MIGRATION_REDIS_URL") as refused:
        RedisElector(f"rediss://h?{query}", "k", "one", TTL)
    assert "geh3im" not in "".join(traceback.format_exception(refused.value))


async def test_no_request_is_sent_before_a_try() -> None:
    """Confirm and release send no request before the first try, so that an unreachable URL does not matter."""
    elector = RedisElector("unix:///nowhere", "k", "one", TTL)
    with pytest.raises(HoldLost):
        await elector.confirm()
    await elector.release()


def test_a_hold_is_trusted_for_less_than_its_ttl() -> None:
    """A hold with a ttl of 30 s is trusted for 25 s, so that the holder stops before the key expires."""
    elector = RedisElector("unix:///nowhere", "k", "one", TTL)
    assert elector._hold.trust_window.trusted_seconds == pytest.approx(25)
