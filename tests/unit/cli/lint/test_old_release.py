"""What the rules say about an older release after a revision without a mark."""

from pathlib import Path

import pytest
from sqlalchemy.dialects import mysql

from api.migrations.cli.lint.old_release import by_rules
from api.migrations.core.rollback import Verdict
from api.migrations.execution.revisions import Revisions
from tests.support.planted_faults import BASE, Planted, write_history

RUNS, FAILS, UNKNOWN = Verdict


def verdicts(folder: Path, *bodies: str) -> list[Verdict]:
    """Return the verdict about each of the revisions with these statements, which the release does not contain."""
    names = [f"r{number}" for number in range(len(bodies))]
    planted = (Planted(name, f'op.execute("{sql}")') for name, sql in zip(names, bodies, strict=True))
    found = by_rules(Revisions(str(write_history(folder, BASE, *planted))), frozenset(names))
    return [found[name][0] for name in names]


@pytest.mark.parametrize(
    ("sql", "verdict"),
    [
        ("CREATE TABLE notes (id int NOT NULL UNIQUE)", RUNS),
        ("ALTER TABLE orders ADD COLUMN note text", RUNS),
        ("ALTER TABLE orders ADD COLUMN note text NOT NULL DEFAULT ''", RUNS),
        ("ALTER TABLE orders ALTER COLUMN code DROP NOT NULL", RUNS),
        ("CREATE INDEX ix ON orders (code)", RUNS),
        ("SELECT setval('s', 1)", RUNS),
        ("ALTER TABLE orders ADD COLUMN note text UNIQUE", RUNS),
        ("ALTER TABLE orders ADD COLUMN note text DEFAULT '' UNIQUE", UNKNOWN),
        ("ALTER TABLE orders ADD COLUMN note int DEFAULT 0 CHECK (note <> number)", UNKNOWN),
        ("DROP INDEX ix", UNKNOWN),
        ("ALTER TABLE orders DROP CONSTRAINT uq", UNKNOWN),
        ("ALTER TABLE orders RENAME CONSTRAINT uq TO other", UNKNOWN),
        ("SELECT retire_orders()", UNKNOWN),
        ("SELECT * FROM retire_orders()", UNKNOWN),
        ("UPDATE orders SET code = ''", RUNS),
        ("ALTER TABLE orders VALIDATE CONSTRAINT ck", RUNS),
        ("ALTER TABLE orders ADD COLUMN note text NOT NULL", FAILS),
        ("ALTER TABLE orders DROP COLUMN code", FAILS),
        ("ALTER TABLE orders RENAME COLUMN code TO mark", FAILS),
        ("ALTER TABLE carts RENAME TO baskets", FAILS),
        ("DROP TABLE carts", FAILS),
        ("ALTER TABLE orders ALTER COLUMN code SET NOT NULL", UNKNOWN),
        ("ALTER TABLE orders ALTER COLUMN number TYPE bigint", UNKNOWN),
        ("ALTER TABLE orders ADD CONSTRAINT ck CHECK (number > 0) NOT VALID", UNKNOWN),
        ("CREATE UNIQUE INDEX ux ON orders (code)", UNKNOWN),
        ("DO $$ BEGIN DROP TABLE orders; END $$", UNKNOWN),
        ("REVOKE SELECT ON orders FROM app", UNKNOWN),
    ],
)
def test_each_statement_has_its_verdict(tmp_path: Path, sql: str, verdict: Verdict) -> None:
    """What an older release uses must not go, and what may refuse its rows, or is not known, is not proven harmless."""
    assert verdicts(tmp_path, sql) == [verdict]


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ("CREATE TABLE notes (id int)", "DROP TABLE notes", RUNS),
        ("CREATE TABLE notes (id int)", "ALTER TABLE notes RENAME COLUMN id TO number", RUNS),
        ("CREATE TABLE notes (id int)", "ALTER TABLE notes ADD CONSTRAINT ck CHECK (id > 0)", RUNS),
        ("ALTER TABLE orders ADD note text", "ALTER TABLE orders DROP COLUMN note", RUNS),
        ("ALTER TABLE orders ADD note text DEFAULT ''", "ALTER TABLE orders ALTER COLUMN note SET NOT NULL", RUNS),
        ("ALTER TABLE orders ADD note text", "ALTER TABLE orders ALTER COLUMN note SET NOT NULL", FAILS),
        ("CREATE TABLE notes (id int)", "ALTER TABLE orders DROP COLUMN code", FAILS),
        ("CREATE TABLE IF NOT EXISTS orders (id int)", "ALTER TABLE orders DROP COLUMN code", FAILS),
        ("CREATE TEMP TABLE orders (id int)", "ALTER TABLE orders DROP COLUMN code", FAILS),
        ("ALTER TABLE orders ADD COLUMN IF NOT EXISTS code text", "ALTER TABLE orders DROP COLUMN code", FAILS),
        ("CREATE INDEX ix ON orders (code)", "DROP INDEX ix", RUNS),
    ],
)
def test_what_the_release_does_not_know_may_change(tmp_path: Path, first: str, second: str, verdict: Verdict) -> None:
    """A later revision may drop or rename what an earlier one added, because the release contains neither."""
    assert verdicts(tmp_path, first, second) == [RUNS, verdict]


@pytest.mark.parametrize(
    "condition",
    [
        "op.get_bind().scalar(sa.text('SELECT 1 FROM orders'))",
        "list(op.get_bind().execute(sa.text('SELECT 1 FROM orders')))",
        "sa.inspect(op.get_bind()).has_table('unknown')",
        "not context.is_offline_mode()",
    ],
)
def test_a_revision_that_depends_on_what_it_reads_is_unknown(tmp_path: Path, condition: str) -> None:
    """Without a database it does nothing, but nothing proves that it did nothing in the database."""
    body = f"from alembic import context\nif {condition}:\n    op.drop_column('orders', 'code')"
    ini = write_history(tmp_path, BASE, Planted("r0", body))
    verdict, why = by_rules(Revisions(str(ini)), frozenset({"r0"}))["r0"]
    assert (verdict, why) == (UNKNOWN, "what it does depends on what it reads from the database")


def test_the_statements_are_those_of_the_database(tmp_path: Path) -> None:
    """A condition on the dialect is decided by the database's dialect, not by PostgreSQL's."""
    body = "if op.get_bind().dialect.name == 'mysql':\n    op.drop_column('orders', 'code')"
    ini = write_history(tmp_path, BASE, Planted("r0", body))
    verdict, _ = by_rules(Revisions(str(ini)), frozenset({"r0"}), mysql.dialect(paramstyle="named"))["r0"]
    assert verdict is FAILS


def test_a_revision_that_cannot_be_executed_offline_is_unknown(tmp_path: Path) -> None:
    """`upgrade()` needs a database: nothing is known of the release after it."""
    ini = write_history(tmp_path, BASE, Planted("r0", "raise ValueError('no database')"))
    verdict, why = by_rules(Revisions(str(ini)), frozenset({"r0"}))["r0"]
    assert (verdict, "without a database" in why) == (UNKNOWN, True)
