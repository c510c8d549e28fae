"""`doctor` on a real server with one fault at a time: it reports the fault and changes nothing."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from api.migrations.databases.backend import Verdict
from api.migrations.databases.postgres import diagnostics as server_checks
from tests.integration.lease_electors import LEASE_SECONDS, NAME, making, serving
from tests.support.doctor_findings import found
from tests.support.fakes import assembled, in_the_way, tree
from tests.support.pooler import PgBouncer
from tests.support.redis_server import RedisServer
from tests.support.servers import Server, embedded_postgres, fetch
from tests.support.standby import REPLICATION, standby_of
from tests.support.waiting import until

ROLE = f"patient_{os.getpid()}"
CREATE = 'op.execute("CREATE TABLE t (a int)")'
OWN_ENGINE = """
from alembic import context
import sqlalchemy as sa
engine = sa.create_engine({url!r}, poolclass=sa.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    context.run_migrations()
"""


async def upgraded(url: str, folder: Path) -> Path:
    """Create a history of one revision and apply it."""
    ini = tree(folder, CREATE)
    await assembled(url, ini).coordinator().become_ready()
    return ini


@pytest.fixture
def plain_url(server: Server, database_url: str) -> Iterator[str]:
    """Yield the URL of a role that owns nothing in the database."""
    name = urlsplit(database_url).path[1:]
    server.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'secret'")
    yield server.url(name, user=ROLE, password="secret")
    server.execute(f"DROP OWNED BY {ROLE} CASCADE", database=name)
    server.execute(f"DROP ROLE {ROLE}")


async def test_doctor_finds_no_fault_in_a_healthy_database(database_url: str, tmp_path: Path) -> None:
    """On an empty database and at head every check is ok, and `doctor` creates no table."""
    relations = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    for ini in (tree(tmp_path, CREATE), await upgraded(database_url, tmp_path)):
        before = await fetch(database_url, relations)
        findings = await found(database_url, ini)
        assert {name: verdict for name, (verdict, _) in findings.items() if verdict is not Verdict.OK} == {}
        assert await fetch(database_url, relations) == before
        [[number]] = await fetch(database_url, "SELECT current_setting('server_version_num')::int")
        assert findings["server"][1] == f"PostgreSQL {number // 10000}.{number % 10000}"


async def test_doctor_names_a_misspelt_variable(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment variable is misspelt: `doctor` warns and proposes the right name."""
    monkeypatch.setenv("MIGRATION_WIAT_SECONDS", "600")
    verdict, message = (await found(database_url, tree(tmp_path, CREATE)))["variables"]
    assert verdict is Verdict.WARN
    assert "MIGRATION_WIAT_SECONDS is not a setting" in message
    assert "did you mean MIGRATION_WAIT_SECONDS?" in message


async def test_doctor_names_old_and_prepared_transactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` warns of an old transaction, by its session, and of a prepared one, by its id."""
    monkeypatch.setattr(server_checks, "OLD_SECONDS", 0.0)
    with embedded_postgres(max_prepared_transactions="2") as server, server.database("patient") as url:
        ini = await upgraded(url, tmp_path)
        other = await asyncpg.connect(url)
        for sql in ("BEGIN", "LOCK TABLE t IN SHARE MODE", "PREPARE TRANSACTION 'left'"):
            await other.execute(sql)
        await other.close()
        async with in_the_way(url, "SELECT * FROM t", "nightly-report") as blocker:
            findings = await found(url, ini)
            pid = blocker.get_server_pid()
        verdict, message = findings["transactions"]
        assert (verdict, f"pid {pid} (nightly-report, postgres, idle in transaction, " in message) == (
            Verdict.WARN,
            True,
        )
        assert findings["prepared"][0] is Verdict.WARN
        assert "ROLLBACK PREPARED 'left' of postgres" in findings["prepared"][1]
        await fetch(url, "ROLLBACK PREPARED 'left'")


async def test_doctor_shows_how_to_drop_an_invalid_index(database_url: str, tmp_path: Path) -> None:
    """An index is INVALID: `doctor` warns and prints the DROP INDEX statement."""
    ini = await upgraded(database_url, tmp_path)
    await fetch(database_url, "INSERT INTO t VALUES (1), (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await fetch(database_url, "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)")
    verdict, message = (await found(database_url, ini))["indexes"]
    assert (verdict, "DROP INDEX CONCURRENTLY i" in message) == (Verdict.WARN, True)


async def test_doctor_fails_on_a_half_applied_revision(database_url: str, tmp_path: Path) -> None:
    """A revision is half applied, which stops every instance: `doctor` fails that check and names `repair --rerun`."""
    ini = await upgraded(database_url, tmp_path)
    await fetch(database_url, "UPDATE alembic_version_history SET outcome = 'half_applied'")
    verdict, message = (await found(database_url, ini))["schema"]
    assert (verdict, "repair --rerun" in message) == (Verdict.FAIL, True)


async def test_doctor_accepts_a_half_applied_revision_that_still_runs(database_url: str, tmp_path: Path) -> None:
    """A lock holder exists, so the half-applied revision may still run: `doctor` accepts it until the lock is free."""
    ini = await upgraded(database_url, tmp_path)
    await fetch(database_url, "UPDATE alembic_version_history SET outcome = 'half_applied'")
    holder = assembled(database_url, ini, "other").session()
    await holder.open()
    try:
        assert await holder.try_lock()
        assert (await found(database_url, ini))["schema"][0] is Verdict.OK
    finally:
        await holder.close()
    assert (await found(database_url, ini))["schema"][0] is Verdict.FAIL


async def test_doctor_names_the_privilege_that_a_role_lacks(database_url: str, plain_url: str, tmp_path: Path) -> None:
    """The role may not create, does not own tables, or sees no other sessions: `doctor` prints the right GRANT."""
    ini = await upgraded(database_url, tmp_path)
    missing = []
    for grant in (
        f"GRANT CREATE ON SCHEMA public TO {ROLE}",
        f"REASSIGN OWNED BY postgres TO {ROLE}",
        f"GRANT pg_read_all_stats TO {ROLE}",
    ):
        missing.append((await found(plain_url, ini))["privileges"])
        if grant.startswith("REASSIGN"):
            for table in ("t", "alembic_version", "alembic_version_history"):
                await fetch(database_url, f"ALTER TABLE {table} OWNER TO {ROLE}")
        else:
            await fetch(database_url, grant)
    assert [verdict for verdict, _ in missing] == [Verdict.FAIL, Verdict.WARN, Verdict.WARN]
    assert f"GRANT CREATE ON SCHEMA public TO {ROLE}" in missing[0][1]
    assert "does not own alembic_version, alembic_version_history, t" in missing[1][1]
    assert f"GRANT pg_read_all_stats TO {ROLE}" in missing[2][1]
    assert (await found(plain_url, ini))["privileges"][0] is Verdict.OK


async def test_doctor_tries_the_service_role_on_the_version_table(
    database_url: str, plain_url: str, tmp_path: Path
) -> None:
    """The service's own role may not read the version table: `doctor` warns, and the GRANT that it prints helps."""
    ini = await upgraded(database_url, tmp_path)
    urls = {"database_url": plain_url, "migration_database_url": database_url}
    verdict, message = (await found(plain_url, ini, **urls))["service"]
    assert verdict is Verdict.WARN, message
    _, _, grant = message.partition(": ")
    await fetch(database_url, grant)
    assert (await found(plain_url, ini, **urls))["service"][0] is Verdict.OK


async def test_doctor_fails_on_an_env_py_that_connects_elsewhere(database_url: str, tmp_path: Path) -> None:
    """env.py connects to a database of another kind: `doctor` fails that check, judges no schema, migrates nothing."""
    env = OWN_ENGINE.format(url="sqlite://")
    findings = await found(database_url, tree(tmp_path, CREATE, env=env))
    verdict, message = findings["env"]
    assert (verdict, "connects to a sqlite database" in message) == (Verdict.FAIL, True)
    verdict, message = findings["schema"]
    assert (verdict, "not judged, because the check of env.py failed" in message) == (Verdict.WARN, True)
    assert "version_ids" not in findings
    assert await fetch(database_url, "SELECT to_regclass('alembic_version')") == [(None,)]


async def test_doctor_says_that_env_py_opens_its_own_connection(database_url: str, tmp_path: Path) -> None:
    """env.py opens its own connection to the database: `doctor` says so, and that it acquires a second lock there."""
    env = OWN_ENGINE.format(url=database_url.replace("postgresql://", "postgresql+psycopg2://"))
    verdict, message = (await found(database_url, tree(tmp_path, CREATE, env=env)))["env"]
    assert (verdict, "opens a connection of its own" in message) == (Verdict.OK, True), message


async def test_doctor_warns_of_a_pooler_and_of_timeouts_behind_it(
    pgbouncer: Callable[..., PgBouncer], database_url: str, tmp_path: Path
) -> None:
    """Behind PgBouncer `doctor` warns of the pooler and of a session timeout; on a direct connection of neither."""
    ini = await upgraded(database_url, tmp_path)
    name = urlsplit(database_url).path[1:]
    await fetch(database_url, f"ALTER DATABASE \"{name}\" SET idle_session_timeout = '5min'")
    direct, pooled = await found(database_url, ini), await found(pgbouncer().url(name), ini)
    assert (direct["pooler"][0], direct["timeouts"][0]) == (Verdict.OK, Verdict.OK)
    assert (pooled["pooler"][0], pooled["timeouts"][0]) == (Verdict.WARN, Verdict.WARN)
    assert "MIGRATION_DATABASE_URL" in pooled["pooler"][1]
    assert "idle_session_timeout = 300000ms" in pooled["timeouts"][1]


async def test_doctor_fails_on_a_standby_and_warns_of_its_lag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a standby `doctor` fails only the server check; on the primary it warns when the standby is behind."""
    with embedded_postgres(REPLICATION) as primary, standby_of(primary) as standby:
        ini = await upgraded(primary.url("postgres"), tmp_path)
        replayed = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
        ((now,),) = await fetch(primary.superuser_url, "SELECT pg_current_wal_lsn()::text")

        async def in_step() -> bool:
            return bool((await fetch(standby.superuser_url, replayed, now))[0][0])

        await until(in_step, "a standby in step", seconds=30)
        findings = await found(standby.superuser_url, ini)
        assert {name: text for name, (verdict, text) in findings.items() if verdict is Verdict.FAIL} == {
            "server": findings["server"][1]
        }
        assert ", but a standby. To fix: point MIGRATION_DATABASE_URL at the primary" in findings["server"][1]
        assert (await found(primary.superuser_url, ini))["replication"][0] is Verdict.OK

        monkeypatch.setattr(server_checks, "LAG_SECONDS", 0.5)
        await fetch(standby.superuser_url, "ALTER SYSTEM SET recovery_min_apply_delay = '1s'")
        await fetch(standby.superuser_url, "SELECT pg_reload_conf()")
        seen: list[tuple[Verdict, str]] = []

        async def behind() -> bool:
            await fetch(primary.superuser_url, "INSERT INTO t VALUES (1)")
            seen.append((await found(primary.superuser_url, ini))["replication"])
            return seen[-1][0] is Verdict.WARN

        await until(behind, "a standby that is behind", seconds=30)
        assert re.match(r"standbys are behind \(walreceiver \d+ s\): a migration increases the lag", seen[-1][1])


async def test_doctor_does_not_change_a_lease(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`doctor` tries its rights on the Lease without effect: no Lease is created, and a leader keeps its hold."""
    ini = await upgraded(database_url, tmp_path)
    values = {"strategy": "kubernetes", "lease_name": NAME}
    with serving(tmp_path, monkeypatch) as api:
        assert "it answers" in (await found(database_url, ini, **values))["strategy"][1]
        assert (api.verbs, api.spec(NAME)) == ({"get", "create", "update"}, {})
        async with making(api) as make:
            leader = make("first")
            assert await leader.try_acquire()
            before = api.spec(NAME)
            assert "names first as the leader" in (await found(database_url, ini, **values))["strategy"][1]
            assert {**api.spec(NAME), "renewTime": before["renewTime"]} == before
        api.stop()
        assert (await found(database_url, ini, **values))["strategy"][0] is Verdict.FAIL


@pytest.mark.parametrize("verb", ["get", "create", "update"])
@pytest.mark.parametrize("there", [True, False], ids=["a Lease", "no Lease"])
async def test_doctor_names_a_missing_right_on_the_lease(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, there: bool
) -> None:
    """The Role lacks a verb on Leases: `doctor` fails and names it, whether the Lease exists or not."""
    ini = tree(tmp_path, CREATE)
    with serving(tmp_path, monkeypatch) as api:
        if there:
            async with making(api) as make:
                assert await make().try_acquire()
        before = api.spec(NAME)
        api.granted = {"t0ken": api.granted["t0ken"] - {verb}}
        values = {"strategy": "kubernetes", "lease_name": NAME, "lease_seconds": LEASE_SECONDS}
        verdict, message = (await found(database_url, ini, **values))["strategy"]
        assert (verdict, f"grant the verb '{verb}' " in message) == (Verdict.FAIL, True), message
        assert api.spec(NAME) == before


async def test_doctor_names_a_missing_namespace(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The namespace of the Lease does not exist: `doctor` fails and names it."""
    ini = tree(tmp_path, CREATE)
    with serving(tmp_path, monkeypatch):
        values = {"strategy": "kubernetes", "lease_namespace": "elsewhere", "lease_seconds": LEASE_SECONDS}
        verdict, message = (await found(database_url, ini, **values))["strategy"]
    assert (verdict, "has no namespace elsewhere" in message) == (Verdict.FAIL, True), message


async def test_doctor_writes_nothing_to_redis(database_url: str, redis_server: RedisServer, tmp_path: Path) -> None:
    """`doctor` writes no key to Redis; it fails if Redis is down, is a replica, or lacks a permission."""
    ini = await upgraded(database_url, tmp_path)
    values = {"strategy": "redis", "redis_url": redis_server.url}
    written = redis_server.info("persistence")["rdb_changes_since_last_save"]
    findings = await found(database_url, ini, **values)
    assert (findings["strategy"][0], "it answers" in findings["strategy"][1]) == (Verdict.OK, True)
    assert redis_server.info("persistence")["rdb_changes_since_last_save"] == written
    redis_server.execute("REPLICAOF", "127.0.0.1", "1")
    verdict, message = (await found(database_url, ini, **values))["strategy"]
    assert (verdict, "Redis is a replica and accepts no writes" in message) == (Verdict.FAIL, True), message
    redis_server.execute("REPLICAOF", "NO", "ONE")
    redis_server.execute("ACL", "SETUSER", "default", "-set")
    verdict, message = (await found(database_url, ini, **values))["strategy"]
    assert (verdict, "grant it the commands SET" in message) == (Verdict.FAIL, True), message
    redis_server.kill()
    verdict, message = (await found(database_url, ini, **values))["strategy"]
    assert (verdict, "no connection to Redis" in message) == (Verdict.FAIL, True)
