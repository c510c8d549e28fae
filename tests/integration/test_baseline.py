"""A database with tables and no revision is refused, or gets the revision of MIGRATION_BASELINE, on each database."""

from pathlib import Path

import pytest

from api.migrations.errors import ConfigurationError, SchemaRefused
from tests.support.fakes import assembled, tree
from tests.support.places import HISTORY, Place, PostgresPlace
from tests.support.pooler import StartPooler, through
from tests.support.servers import fetch

STRATEGY = "advisory_lock"


@pytest.fixture(params=["postgresql", "mariadb", "mysql", "sqlite"])
def legacy(request: pytest.FixtureRequest) -> Place:
    """Return a database with the table of revision r1 and no revision."""
    place: Place = request.getfixturevalue(f"{request.param}_place")
    place.rows("CREATE TABLE legacy (a integer)")
    return place


def history(tmp_path: Path) -> Path:
    """Write two revisions, of which the first creates the table that exists."""
    return tree(tmp_path, 'op.execute("CREATE TABLE legacy (a integer)")', 'op.execute("CREATE TABLE b (a integer)")')


async def start(place: Place, ini: Path, baseline: str | None = None) -> str:
    """Start an instance until it is ready, and return the state that it found last."""
    assembly = assembled(place.url, ini, strategy=STRATEGY, baseline=baseline)
    await assembly.coordinator().become_ready()
    return assembly.tracker.status.schema.state


async def test_a_database_with_tables_and_no_revision_is_refused(legacy: Place, tmp_path: Path) -> None:
    """The instance names the table and the ways out, and changes nothing; with `base` it runs the first revision."""
    ini = history(tmp_path)
    with pytest.raises(SchemaRefused, match=r"\(legacy\) and no revision: .*stamp REV.*MIGRATION_BASELINE=base"):
        await start(legacy, ini)
    assert not legacy.has("alembic_version")
    assert not legacy.has(HISTORY)
    with pytest.raises(Exception, match="revision r1, Do r1 failed"):
        await start(legacy, ini, "base")


async def test_a_baseline_is_stamped_and_the_later_revisions_run(legacy: Place, tmp_path: Path) -> None:
    """The instance stamps r1 with a note and applies r2; the setting then has no effect."""
    ini = history(tmp_path)
    assert [await start(legacy, ini, "r1"), await start(legacy, ini, "r2")] == ["at_head", "at_head"]
    rows = legacy.rows(f"SELECT revision, outcome, coalesce(note, '') FROM {HISTORY} ORDER BY id")
    note = "MIGRATION_BASELINE: tables existed without a revision"
    assert [list(row) for row in rows] == [["r1", "stamped", note], ["r2", "applied", ""]]


async def test_a_baseline_has_no_effect_on_an_empty_database(sqlite_place: Place, tmp_path: Path) -> None:
    """The database is empty: the instance runs both revisions although a baseline is set."""
    await start(sqlite_place, history(tmp_path), "r1")
    assert sqlite_place.rows(f"SELECT outcome FROM {HISTORY}") == [["applied"]] * 2


async def test_a_baseline_is_stamped_behind_a_pooler(
    postgresql_place: PostgresPlace, pgbouncer: StartPooler, tmp_path: Path
) -> None:
    """Behind a transaction pooler the stamp releases the lock, and the upgrade acquires it again."""
    postgresql_place.rows("CREATE TABLE legacy (a integer)")
    pooled = PostgresPlace(through(pgbouncer(), postgresql_place.url))
    assert await start(pooled, history(tmp_path), "r1") == "at_head"
    assert postgresql_place.rows(f"SELECT outcome FROM {HISTORY} ORDER BY id") == [["stamped"], ["applied"]]


@pytest.mark.parametrize("baseline", ["r9", "-1"])
def test_an_unknown_baseline_is_refused_by_name(sqlite_place: Place, tmp_path: Path, baseline: str) -> None:
    """A baseline that this build does not contain is refused before the database is contacted."""
    with pytest.raises(ConfigurationError, match=f"MIGRATION_BASELINE='{baseline}'"):
        assembled(sqlite_place.url, history(tmp_path), strategy=STRATEGY, baseline=baseline)


async def test_tables_of_an_extension_do_not_count(postgresql_place: PostgresPlace, tmp_path: Path) -> None:
    """Tables of an extension or another schema, and those that a downgrade left, do not make it unversioned."""
    url, ini = postgresql_place.url, tree(tmp_path, 'op.execute("CREATE TABLE b (a integer)")')
    for sql in (
        "CREATE TABLE spatial_ref_sys (a integer)",
        "ALTER EXTENSION plpgsql ADD TABLE spatial_ref_sys",
        "CREATE SCHEMA other",
        "CREATE TABLE other.legacy (a integer)",
    ):
        await fetch(url, sql)
    assert await start(postgresql_place, ini) == "at_head"
    for sql in ("DELETE FROM alembic_version", "DROP TABLE b", "CREATE TABLE left_over (a integer)"):
        await fetch(url, sql)
    assert await start(postgresql_place, ini) == "at_head"
