"""The ledger's tables, made from its models with MIGRATION_BOOTSTRAP=create_all, are those of its revisions."""

import pytest

from api.ledger import metadata
from tests.integration.ledger_schema import schema_of
from tests.support.fakes import assembled
from tests.support.places import HISTORY, Place, PostgresPlace
from tests.support.project import PLAIN
from tests.support.servers import fetch

CATALOG = """
SELECT format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND NOT conrelid = ANY ($1::regclass[])
UNION ALL
SELECT format('%s valid=%s', pg_get_indexdef(indexrelid), indisvalid) FROM pg_index
JOIN pg_class c ON c.oid = indexrelid
WHERE relnamespace = 'public'::regnamespace AND NOT indrelid = ANY ($1::regclass[])
UNION ALL
SELECT format('%s.%s %s %s %s identity=%s default %s', attrelid::regclass,
              row_number() OVER (PARTITION BY attrelid ORDER BY attnum), attname,
              format_type(atttypid, atttypmod), attnotnull, attidentity, pg_get_expr(adbin, adrelid))
FROM pg_attribute JOIN pg_class c ON c.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
  AND NOT attrelid = ANY ($1::regclass[])
UNION ALL SELECT format('trigger %s', tgname) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT format('function %s', proname) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT format('%s %s', relkind, relname) FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'alembic%'
ORDER BY 1
"""
"""Everything in the schema public but the package's own tables."""


async def start(place: Place) -> None:
    """Start an instance on an empty database until it is ready."""
    assembly = assembled(place.url, PLAIN, strategy="advisory_lock", bootstrap="create_all", baseline=None)
    await assembly.coordinator().become_ready()


async def test_the_ledger_made_from_its_models_equals_its_history(
    postgresql_place: PostgresPlace, ledger_url: str
) -> None:
    """On PostgreSQL columns, constraints, indexes, triggers, functions and sequences equal those of the revisions."""
    await start(postgresql_place)
    own = ["alembic_version", HISTORY]
    made, migrated = [await fetch(url, CATALOG, own) for url in (postgresql_place.url, ledger_url)]
    assert len(made) > 30
    assert made == migrated


@pytest.mark.parametrize("kind", ["mariadb", "sqlite"])
async def test_the_ledger_made_from_its_models_can_be_downgraded(request: pytest.FixtureRequest, kind: str) -> None:
    """The revisions undo what the models made, and then make the same tables again."""
    place: Place = request.getfixturevalue(f"{kind}_place")
    await start(place)
    schema = schema_of(place.url)
    made = await schema.shape()
    assert made.keys() == metadata.tables.keys()
    await schema.downgrade("base")
    assert await schema.shape() == {}
    await schema.upgrade("head")
    assert await schema.shape() == made
    await schema.engine.dispose()
