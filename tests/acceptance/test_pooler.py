"""Behind a real PgBouncer the package detects the pooler, and one transaction carries the lock and the revisions."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from devtools.ports import HOST, free_port
from tests.support import evidence
from tests.support.fleet import (
    MARK,
    WAIT_SECONDS,
    fleet,
    marks_in_logs,
    migrate,
    until_all_ready,
    until_one_migrates,
    until_phase,
)
from tests.support.pooler import StartPooler, through
from tests.support.project import Revision, concurrent_index, head, held, make_history, quick, slow
from tests.support.servers import Server

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_three_instances_migrate_once(pgbouncer: StartPooler, ledger_url: str, tmp_path: Path, pool_mode: str) -> None:
    """Three instances share a small pool: one migrates, all become ready, and no lock is left."""
    ini = make_history(tmp_path, quick("one"), slow("two", 1.5), quick("three"))
    pooler = pgbouncer(pool_mode=pool_mode, pool_size=2 if pool_mode == "transaction" else 8)
    with fleet(3, through(pooler, ledger_url), ini=ini) as instances:
        until_all_ready(instances)
        assert marks_in_logs(instances) == 1
        assert evidence.advisory_locks(ledger_url) == 0
        assert instances[0].post("/accounts", {"name": "Till", "currency": "EUR"}).status_code == 201
    assert evidence.marks(ledger_url) == ["one", "three", "two"]
    assert evidence.applied(ledger_url)[-3:] == ["one", "two", "three"]
    assert evidence.versions(ledger_url) == ["three"]
    evidence.until_unlocked(ledger_url)


def test_a_pooled_run_holds_one_lock_and_the_others_name_it(
    pgbouncer: StartPooler, ledger_url: str, tmp_path: Path
) -> None:
    """Two instances and a command use PgBouncer: one lock exists while one migrates, and the others name its holder."""
    ini = make_history(tmp_path, held())
    url = through(pgbouncer(), ledger_url)
    with fleet(2, url, ini=ini) as instances:
        holder = until_one_migrates(instances)
        other = next(instance for instance in instances if instance is not holder)
        until_phase([other], "waiting")
        assert evidence.advisory_locks(ledger_url) == 1
        code, output = migrate("upgrade", "--timeout", "1", url=url, ini=ini)
        assert (code, MARK in output) == (4, False), output
        assert f"{holder.name} (pid " in output
        evidence.let_go(ledger_url)
        until_all_ready(instances)
    assert evidence.marks(ledger_url) == ["held"]
    evidence.until_unlocked(ledger_url)


def assert_refused(message: str) -> None:
    """Assert that the message names the revision, the reason and the remedy."""
    assert "revision concurrent, Made by a test uses autocommit_block or backfill" in message
    assert "set MIGRATION_DATABASE_URL to the database's direct endpoint" in message


def test_a_revision_that_needs_autocommit_is_refused_by_name(
    pgbouncer: StartPooler, ledger_url: str, tmp_path: Path
) -> None:
    """Behind PgBouncer a revision with an autocommit_block or a backfill is refused, and no revision is applied."""
    ini = make_history(tmp_path, quick(), concurrent_index())
    fills = Revision("concurrent", "backfill()", header="from api.migrations.backfill import backfill")
    url = through(pgbouncer(), ledger_url)
    for each in (ini, make_history(tmp_path / "other", quick(), fills)):
        code, output = migrate("upgrade", url=url, ini=each)
        assert (code, output.count("\n")) == (1, 1), output
        assert_refused(output)
    with fleet(2, url, ini=ini, MIGRATION_ON_FAILURE="hold") as instances:
        until_phase(instances, "failed")
        for instance in instances:
            assert_refused(instance.health()["message"])
        assert marks_in_logs(instances) == 0
    assert evidence.marks(ledger_url) == []
    assert evidence.versions(ledger_url) == [head()]
    evidence.until_unlocked(ledger_url)


def test_a_migration_with_a_direct_url_bypasses_the_pooler(
    pgbouncer: StartPooler, database_url: str, tmp_path: Path
) -> None:
    """MIGRATION_DATABASE_URL is direct: the migration connects to the server, and the service's pool to PgBouncer."""
    ini = make_history(tmp_path, slow("slow", 1.5), concurrent_index())
    pooler = pgbouncer()
    with fleet(3, through(pooler, database_url), ini=ini, MIGRATION_DATABASE_URL=database_url) as instances:
        until_all_ready(instances)
        assert marks_in_logs(instances) == 1
        came = f"db={urlsplit(database_url).path[1:]} user=postgres"
        assert came not in pooler.log.read_text()
        for instance in instances:
            assert instance.post("/accounts", {"name": instance.name, "currency": "EUR"}).status_code == 201
        assert "login attempt: " + came in pooler.log.read_text()
    assert evidence.marks(database_url) == ["slow"]
    assert evidence.versions(database_url) == ["concurrent"]
    assert evidence.invalid_indexes(database_url) == []
    evidence.until_unlocked(database_url)


@pytest.mark.parametrize("pool_mode", ["direct", "session", "transaction", "statement"])
def test_only_a_direct_connection_builds_an_index(
    pgbouncer: StartPooler, ledger_url: str, tmp_path: Path, pool_mode: str
) -> None:
    """A concurrent index is built on a direct connection; in each pool mode `upgrade` says to use the direct URL."""
    ini = make_history(tmp_path, quick("marks"), concurrent_index())
    direct = pool_mode == "direct"
    url = ledger_url if direct else through(pgbouncer(pool_mode=pool_mode), ledger_url)
    began = time.monotonic()
    code, output = migrate("upgrade", url=url, ini=ini)
    log.info("%s: exit code %d after %.1f s", pool_mode, code, time.monotonic() - began)
    assert code == (0 if direct else 1), output
    remedy = "set MIGRATION_DATABASE_URL to the database's direct endpoint"
    assert direct or (remedy in output and output.count("\n") == 1), output
    assert evidence.versions(ledger_url) == (["concurrent"] if direct else [head()])
    evidence.until_unlocked(ledger_url)


def test_in_statement_mode_an_instance_never_migrates(pgbouncer: StartPooler, ledger_url: str, tmp_path: Path) -> None:
    """In statement mode an instance with pending revisions fails and says why; at head it serves."""
    url = through(pgbouncer(pool_mode="statement"), ledger_url)
    with fleet(1, url, ini=make_history(tmp_path, quick()), MIGRATION_ON_FAILURE="hold") as instances:
        until_phase(instances, "failed")
        assert "through a pooler in statement mode" in instances[0].health()["message"]
        assert marks_in_logs(instances) == 0
    with fleet(1, url) as instances:
        until_all_ready(instances)
    assert evidence.versions(ledger_url) == [head()]
    evidence.until_unlocked(ledger_url)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes until one of the two ends closes."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextmanager
def plain_proxy(server: Server) -> Iterator[int]:
    """Run a TCP proxy that passes bytes and knows nothing of PostgreSQL; yield its port."""
    port, loop, stop = free_port(), asyncio.new_event_loop(), asyncio.Event()
    started = threading.Event()
    open_ones: list[asyncio.Future[tuple[None, None]]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(server.host, server.port)
        open_ones.append(asyncio.gather(copy(reader, back), copy(there, writer)))
        await open_ones[-1]

    async def serve() -> None:
        listening = await asyncio.start_server(connected, HOST, port)
        started.set()
        await stop.wait()
        listening.close()
        await asyncio.gather(*open_ones)

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()], name="plain proxy")
    thread.start()
    try:
        assert started.wait(WAIT_SECONDS)
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(WAIT_SECONDS)
        loop.close()


def test_a_plain_proxy_is_not_taken_for_a_pooler(server: Server, ledger_url: str, tmp_path: Path) -> None:
    """Through a TCP proxy that only passes bytes two instances migrate once and build a concurrent index."""
    ini = make_history(tmp_path, quick("marks"), concurrent_index())
    with plain_proxy(server) as port, fleet(2, ledger_url.replace(f":{server.port}/", f":{port}/"), ini=ini) as both:
        until_all_ready(both)
        assert marks_in_logs(both) == 1
    assert evidence.applied(ledger_url)[-2:] == ["marks", "concurrent"]
    assert evidence.invalid_indexes(ledger_url) == []
    evidence.until_unlocked(ledger_url)
