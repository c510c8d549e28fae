"""The parts of the hold in Redis that need no server: how long it is trusted, and what errors mean."""

import ssl
import traceback

import pytest
from redis import exceptions as theirs

from api.migrations.electors.redis.checks import evicts
from api.migrations.electors.redis.elector import RedisElector
from api.migrations.electors.redis.errors import translate
from api.migrations.electors.trust_window import TrustWindow
from api.migrations.errors import AccessRefused, ConfigurationError, ElectorUnreachable, HoldLost, MigrationError

TTL = 30.0


def test_nothing_is_trusted_before_it_was_granted() -> None:
    """Whatever the clock's origin is."""
    assert TrustWindow(TTL).left(-1e9) == 0


def test_trust_counts_from_the_question() -> None:
    """However late the answer comes, and less than the server grants."""
    trust = TrustWindow(TTL)
    trust.granted(asked_at=100)
    assert trust.left(now=100) == pytest.approx(25)
    assert trust.left(now=124) == pytest.approx(1)
    assert trust.left(now=125) == trust.left(now=1000) == 0


def test_an_answer_to_an_earlier_question_takes_nothing_back() -> None:
    """Renewal and confirmation may overtake one another."""
    trust = TrustWindow(TTL)
    trust.granted(asked_at=110)
    trust.granted(asked_at=100)
    assert trust.left(now=110) == pytest.approx(25)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
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
        (theirs.ClusterDownError("CLUSTERDOWN The cluster is down"), ElectorUnreachable, "cluster is down"),
        (theirs.ResponseError("MISCONF dbhost"), ElectorUnreachable, "cannot save to its disk"),
        (theirs.AuthenticationError("dbhost", status_code="WRONGPASS"), AccessRefused, "user or password"),
        (theirs.AuthenticationError("dbhost", status_code="NOAUTH"), AccessRefused, "asks for a password"),
        (theirs.AuthenticationError("ERR dbhost"), AccessRefused, "user or password"),
        (theirs.NoPermissionError("dbhost", status_code="NOPERM"), AccessRefused, "lacks a permission"),
        (theirs.ResponseError("DENIED Redis is running in protected mode"), AccessRefused, "protected mode"),
        (theirs.ConnectionError("Invalid Database"), MigrationError, "database number"),
        (theirs.MovedError("1 dbhost:1", status_code="MOVED"), ConfigurationError, "Redis Cluster"),
        (theirs.ResponseError("ERR unknown command, with args beginning with: dbhost"), MigrationError, "ERR"),
    ],
)
def test_an_error_says_what_to_do_and_no_host(
    error: theirs.RedisError | OSError, kind: type[MigrationError], words: str
) -> None:
    """What may pass is tried again, what is refused is not, and the client's text is never repeated."""
    translated = translate(error, "asking")
    assert type(translated) is kind
    assert words in str(translated)
    assert "Redis" in str(translated)
    assert "dbhost" not in str(translated)


def test_a_certificate_that_does_not_verify_is_final() -> None:
    """The client wraps it into a lost connection."""
    error = theirs.ConnectionError("Error connecting to dbhost")
    error.__context__ = ssl.SSLCertVerificationError("certificate verify failed: self-signed certificate")
    error.__context__.verify_message = "self-signed certificate"
    assert isinstance(translate(error, "asking"), AccessRefused)


@pytest.mark.parametrize(
    ("policy", "maxmemory", "found"),
    [
        ("noeviction", 1, None),
        ("allkeys-lru", 1, "allkeys-lru"),
        ("volatile-ttl", 1, "volatile-ttl"),
        ("volatile-ttl", 0, None),
    ],
)
def test_what_is_evicted_has_a_policy_and_a_limit(policy: str, maxmemory: int, found: str | None) -> None:
    """Without maxmemory no policy ever applies."""
    assert evicts({"maxmemory_policy": policy, "maxmemory": maxmemory}) == found
    assert evicts({}) is None


@pytest.mark.parametrize("query", ["socket_timeout=geh3im", "geh3im=1", "ssl_cert_reqs=geh3im"])
def test_a_parameter_nobody_knows_is_refused(query: str) -> None:
    """When the elector is made, and without repeating it."""
    with pytest.raises(ConfigurationError, match="MIGRATION_REDIS_URL") as refused:
        RedisElector(f"rediss://h?{query}", "k", "one", TTL)
    assert "geh3im" not in "".join(traceback.format_exception(refused.value))


async def test_nothing_is_asked_of_redis_before_a_try() -> None:
    """Its URL leads nowhere."""
    elector = RedisElector("unix:///nowhere", "k", "one", TTL)
    with pytest.raises(HoldLost):
        await elector.confirm()
    await elector.release()
