"""The server is not up yet, restarted, crashed, full or read-only: no instance crashes, nothing is applied twice."""

import shlex
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import asyncpg
import pytest

from tests.support import evidence, project
from tests.support.fleet import MARK, Instance, fleet, migrate, until_all_ready, until_one_migrates, until_phase
from tests.support.servers import Server, embedded_postgres, fetch_sync
from tests.support.shell import commands, psql_on_path, type_in, works
from tests.support.standby import DURABLE, REPLICATION, standby_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

_numbers = count(1)


@pytest.fixture(scope="module")
def fragile() -> Iterator[Server]:
    """Start a server of this module's own, which a test may stop and copy."""
    with embedded_postgres(REPLICATION, **DURABLE) as started:
        yield started


@pytest.fixture
def url(fragile: Server) -> Iterator[str]:
    """Create an empty database on that server."""
    with fragile.database(f"bad_day_{next(_numbers)}") as made:
        yield made


def assert_applied_once(url: str, ini: Path, *marks: str) -> None:
    """Assert that every revision was applied once, and no lock is left."""
    assert evidence.applied(url) == project.revisions(ini)
    assert evidence.versions(url) == [project.head(ini)]
    assert evidence.marks(url) == sorted(marks)
    assert evidence.advisory_locks(url) == 0


def until_all_miss_the_database(instances: Sequence[Instance], reason: str) -> None:
    """Wait until each instance says that it waits for the database, and why; assert that it is alive and unready."""

    def told() -> bool:
        messages = [str(instance.health().get("message")) for instance in instances]
        return all(m.startswith("waiting for the database") and reason in m for m in messages)

    wait_until(told, f"{len(instances)} waiting for the database ({reason})", seconds=60)
    for instance in instances:
        assert instance.get("/health/live").status_code == 200
        assert instance.get("/health/ready").status_code == 503
        assert instance.get("/health/migrations").status_code == 503


def test_instances_wait_for_a_server_that_is_not_up_yet(fragile: Server, url: str, tmp_path: Path) -> None:
    """Three instances start before the server: they say what they wait for, one migrates, and all become ready."""
    assert fragile.process is not None
    ini = project.make_history(tmp_path, project.quick())
    fragile.process.stop()
    try:
        with fleet(3, url, ini=ini) as instances:
            until_all_miss_the_database(instances, "Connection refused")
            fragile.process.start()
            until_all_ready(instances)
            assert sum(instance.log().count(MARK) for instance in instances) == 1
            assert not any("Traceback" in instance.log() for instance in instances)
    finally:
        fragile.restart()
    assert_applied_once(url, ini, "quick")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_in_mid_revision_is_survived(fragile: Server, url: str, tmp_path: Path, mode: str) -> None:
    """The server stops or crashes in mid-revision: an instance runs the revision again, and all become ready."""
    ini = project.make_history(tmp_path, project.quick(), project.held(), project.quick("after"))
    with fleet(3, url, ini=ini) as instances:
        migrator = until_one_migrates(instances)
        until_phase([instance for instance in instances if instance is not migrator], "waiting")
        wait_until(lambda: evidence.running(url) == ["held"], "the held revision", seconds=60)
        fragile.restart(mode)
        again = ["interrupted", "running"]
        wait_until(lambda: evidence.outcomes(url, "held") == again, "a second attempt", seconds=60)
        evidence.let_go(url)
        until_all_ready(instances)
        assert not any("Traceback" in instance.log() for instance in instances)
    assert_applied_once(url, ini, "after", "held", "quick")


def test_a_restart_while_all_instances_wait_is_survived(fragile: Server, url: str, tmp_path: Path) -> None:
    """The server crashes while two instances wait for a job: they connect again, and are ready after the job."""
    ini = project.make_history(tmp_path, project.quick())
    assert fragile.process is not None
    try:
        with fleet(2, url, ini=ini, MIGRATION_STRATEGY="job") as instances:
            until_phase(instances, "waiting")
            fragile.process.stop("immediate")
            until_all_miss_the_database(instances, "Connection refused")
            fragile.process.start()
            code, output = migrate("upgrade", url=url, ini=ini)
            assert code == 0, output
            until_all_ready(instances)
            assert not any(MARK in instance.log() or "Traceback" in instance.log() for instance in instances)
    finally:
        fragile.restart()
    assert_applied_once(url, ini, "quick")


async def every_connection(url: str) -> list[asyncpg.Connection]:
    """Open connections until the server has none left."""
    taken: list[asyncpg.Connection] = []
    while True:
        try:
            taken.append(await asyncpg.connect(url))
        except asyncpg.TooManyConnectionsError:
            return taken


async def test_instances_wait_for_a_free_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other sessions use all connections but a superuser's: four instances wait, until a person frees some as told."""
    ini = project.make_history(tmp_path, project.quick())
    with embedded_postgres(max_connections="8") as small, small.database("crowded") as as_superuser:
        psql_on_path(small, monkeypatch)
        small.execute("CREATE ROLE ledger LOGIN PASSWORD 'ledger'")
        small.execute("ALTER DATABASE crowded OWNER TO ledger")
        url = small.url("crowded", user="ledger", password="ledger")
        assert len(await every_connection(url)) == 5
        with fleet(4, url, ini=ini) as instances:
            until_all_miss_the_database(instances, "the server has no free connection")
            code, output = type_in("./migrate.sh status", url, ini)
            assert (code, "what to do: The server has no free connection." in output) == (5, True), output
            count, free = instances[0].health()["advice"]["commands"]
            assert count in output
            assert free in output
            assert [*map(words, (count, free))] == [*map(words, commands("No connection left"))]
            assert "application_name" in works(count, url, ini, SUPERUSER_URL=as_superuser)
            assert type_in(count, url, ini, SUPERUSER_URL=url)[0] != 0, "a plain role cannot connect"
            works(free, url, ini, SUPERUSER_URL=as_superuser)
            until_all_ready(instances)
            assert sum(instance.log().count(MARK) for instance in instances) == 1
            assert not any("Traceback" in instance.log() for instance in instances)
        wait_until(lambda: only_one_is_connected(small), "free connections", seconds=30)
        assert_applied_once(as_superuser, ini, "quick")


def words(command: str) -> list[str]:
    """Return the words of a command, as the shell and SQL read them."""
    return [" ".join(word.split()) for word in shlex.split(command)]


def only_one_is_connected(server: Server) -> bool:
    """Return whether only the asking session is connected; False as well while there is no connection to ask on."""
    try:
        rows = server.execute("SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL")
    except asyncpg.TooManyConnectionsError:
        return False
    return bool(rows[0][0] == 1)


def assert_refused(url: str, ini: Path, reason: str) -> None:
    """Assert that the command and an instance fail with the same line."""
    code, output = migrate("upgrade", url=url, ini=ini)
    assert code == 1, output
    assert f"ReadOnlyServer: {reason}" in output
    assert "Traceback" not in output
    with fleet(1, url, ini=ini) as (instance,):
        assert instance.wait() == 143
        assert f"Not ready: {reason}" in instance.log()
        assert "Traceback" not in instance.log()


def test_a_role_that_only_reads_is_refused(fragile: Server, url: str, tmp_path: Path) -> None:
    """With default_transaction_read_only=on a start is refused and changes nothing; at head the instance serves."""
    ini = project.make_history(tmp_path, project.quick())
    fragile.execute("CREATE ROLE reader LOGIN SUPERUSER PASSWORD 'reader'")
    try:
        fragile.execute("ALTER ROLE reader SET default_transaction_read_only = on")
        as_reader = url.replace("postgres@", "reader:reader@")
        assert_refused(as_reader, ini, "the server is read-only")
        assert evidence.versions(url) == []
        assert evidence.history(url) == []
        assert evidence.advisory_locks(url) == 0
        code, output = migrate("upgrade", url=url, ini=ini)
        assert code == 0, output
        with fleet(1, as_reader, ini=ini) as instances:
            until_all_ready(instances)
    finally:
        fragile.execute("DROP ROLE reader")


def test_a_hot_standby_is_refused(fragile: Server, url: str, tmp_path: Path) -> None:
    """A standby grants advisory locks that protect nothing, so a start is refused; at head the instance serves."""
    ini = project.make_history(tmp_path, project.quick())
    database = url.rpartition("/")[2]
    with standby_of(fragile) as standby:
        there = standby.url(database)
        assert fetch_sync(there, "SELECT pg_is_in_recovery()")[0][0] is True
        assert_refused(there, ini, "the server is a standby")
        assert evidence.versions(url) == evidence.versions(there) == []
        code, output = migrate("upgrade", url=url, ini=ini)
        assert code == 0, output
        wait_until(lambda: evidence.versions(there) == ["quick"], "the replicated head", seconds=60)
        with fleet(1, there, ini=ini) as instances:
            until_all_ready(instances)
            assert MARK not in instances[0].log()
    assert_applied_once(url, ini, "quick")
