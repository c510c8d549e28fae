"""Which statements the rules accept and which they find, at the limits of each rule."""

import pytest

from tests.unit.cli.lint.conftest import Find

BLOCK = "with op.get_context().autocommit_block():\n    "


def rules(find: Find, *bodies: str) -> list[str]:
    """Return the rules of the findings in a revision with the bodies of `upgrade()` and `downgrade()`."""
    return [finding.rule for finding in find(*bodies)]


@pytest.mark.parametrize(
    ("column", "before", "after", "rewrites"),
    [
        ("code", "varchar(20)", "varchar(40)", False),
        ("code", "varchar(20)", "text", False),
        ("code", "varchar(20)", "varchar", False),
        ("code", "varchar(20)", "varchar(10)", True),
        ("code", "varchar(20)", "text USING upper(code)", True),
        ("code", "varchar(20)", "text USING code::text", False),
        ("number", "integer", "bigint", True),
        ("number", "integer", "integer", False),
        ("price", "numeric(8, 2)", "numeric(10, 2)", False),
        ("price", "numeric(8, 2)", "numeric", False),
        ("price", "numeric(8, 2)", "numeric(10, 3)", True),
        ("price", "numeric(8)", "numeric(10)", False),
        ("price", "text", "varchar(10)", True),
        ("price", "text", "jsonb", True),
    ],
)
def test_a_type_change_is_found_if_it_rewrites_the_table(
    find: Find, column: str, before: str, after: str, rewrites: bool
) -> None:
    """PostgreSQL lengthens a text or a number without a rewrite, and rewrites the table for other changes."""
    added = f'op.execute("ALTER TABLE orders ADD {column} {before}")\n' if column == "price" else ""
    changed = f'op.execute("ALTER TABLE orders ALTER COLUMN {column} TYPE {after}")'
    assert rules(find, added + changed) == ["table-rewrite"] * rewrites


def test_the_type_before_may_be_given_in_the_revision(find: Find) -> None:
    """`existing_type` says what a column was whose table no revision made."""
    change = 'op.alter_column("old", "a", existing_type=sa.String({}), type_=sa.String(9))'
    assert rules(find, change.format(5)) == []
    assert rules(find, change.format(10)) == ["table-rewrite"]


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ("a int", []),
        ("a int NOT NULL DEFAULT 0", []),
        ("a timestamptz NOT NULL DEFAULT now()", []),
        ("a date DEFAULT (now() AT TIME ZONE 'utc')::date", []),
        ("a text DEFAULT 'random()'", []),
        ("a double precision DEFAULT random()", ["volatile-default"]),
        ("a uuid NOT NULL DEFAULT (uuid_generate_v4())", ["volatile-default"]),
        ("a text DEFAULT our_function(1)", ["volatile-default"]),
        ("a bigserial", ["volatile-default"]),
        ("a int GENERATED ALWAYS AS IDENTITY", ["volatile-default"]),
        ("a int GENERATED ALWAYS AS (number + 1) STORED", ["table-rewrite"]),
        ("a int NOT NULL", ["required-column"]),
        ("a int UNIQUE", ["unique-without-index"]),
        ("a bigint REFERENCES customers (id)", []),
        ("a bigint DEFAULT 1 REFERENCES customers (id)", ["constraint-validates"]),
    ],
)
def test_a_new_column_is_found_if_it_rewrites_checks_or_is_required(
    find: Find, definition: str, expected: list[str]
) -> None:
    """A constant or stable default, and a reference of an empty column, cost nothing."""
    assert rules(find, f'op.execute("ALTER TABLE orders ADD COLUMN {definition}")') == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE INDEX ON ONLY public.orders (code)", ["index-not-concurrent"]),
        ("DROP INDEX ix", []),
        ("REINDEX TABLE orders", ["index-not-concurrent"]),
        ("DROP INDEX CONCURRENTLY ix", ["concurrent-in-transaction"]),
        ("ALTER TABLE orders DETACH PARTITION old CONCURRENTLY", ["concurrent-in-transaction"]),
        ("ALTER TABLE orders SET UNLOGGED", ["table-rewrite"]),
        ("ALTER TABLE orders SET (fillfactor = 70)", []),
        ("CLUSTER orders", ["table-rewrite"]),
        ("ALTER TABLE orders ADD CONSTRAINT c CHECK (a > 0) NOT VALID", []),
        ("ALTER TABLE orders ADD CONSTRAINT c CHECK (a > 0), ADD b int NOT NULL",
         ["constraint-validates", "required-column"]),
        ("ALTER TABLE orders ADD CONSTRAINT e EXCLUDE USING gist (a WITH =)", ["unique-without-index"]),
        ('ALTER TABLE "orders" RENAME "code" TO "text"', ["rename-column"]),
        ("ALTER TABLE orders RENAME CONSTRAINT a TO b", []),
        ("DROP TABLE IF EXISTS orders, customers CASCADE", ["drop-table", "drop-table"]),
        ("CREATE TABLE t (a int); CREATE INDEX ON t (a); DROP TABLE t", []),
        ("CREATE TABLE IF NOT EXISTS orders (a int); CREATE INDEX ON orders (a)", ["index-not-concurrent"]),
        ("-- DROP TABLE orders", []),
        ("COMMENT ON TABLE orders IS 'DROP TABLE orders; --'", []),
        ("INSERT INTO carts (id) VALUES (1); ALTER TABLE orders ADD a int", []),
        ("INSERT INTO carts (id) SELECT id FROM orders; ALTER TABLE orders ADD a int", ["data-and-schema"]),
        ("WITH n AS (SELECT 1) DELETE FROM carts; ALTER TABLE orders ADD a int", ["data-and-schema"]),
        ("ALTER TYPE order_status ADD VALUE 'late'", []),
    ],
)  # fmt: skip
def test_statements_are_judged_by_what_they_do(find: Find, sql: str, expected: list[str]) -> None:
    """A statement is found by what it does to an existing table, however it is written."""
    assert sorted(rules(find, f"op.execute({sql!r})")) == expected


def test_an_index_that_is_dropped_first_may_be_created_if_missing(find: Find) -> None:
    """IF NOT EXISTS keeps no INVALID index that the same revision drops before."""
    create = BLOCK + 'op.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS ix ON orders (id)")\n'
    assert rules(find, create) == ["concurrent-if-not-exists"]
    assert rules(find, BLOCK + 'op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix")\n' + create) == []


def test_work_that_the_coordinator_makes_safe_is_not_found(find: Find) -> None:
    """A short exclusive lock, without any time limit in the revision, is no finding."""
    assert rules(find, 'op.alter_column("orders", "code", server_default="x")\nop.drop_index("ix", "orders")') == []


def test_a_table_of_the_same_revision_has_no_readers(find: Find) -> None:
    """A loop over new tables, with indexes and constraints, has no finding."""
    body = """
    for name in ("a", "b"):
        op.create_table(name, sa.Column("id", sa.Integer()))
        op.create_index(f"ix_{name}", name, ["id"])
        op.create_unique_constraint(f"uq_{name}", name, ["id"])
    """
    assert rules(find, body) == []


def test_a_batch_is_judged_as_its_statements(find: Find) -> None:
    """Operations of `batch_alter_table` are found at the line of the `with`."""
    [finding] = find('with op.batch_alter_table("orders") as batch:\n    batch.drop_column("code")')
    assert (finding.rule, finding.line) == ("drop-column", 14)


def test_a_backfill_is_no_finding(find: Find) -> None:
    """A revision with a backfill has no finding; with a change of the schema it is one that commits in the middle."""
    fill = "from api.migrations.backfill import backfill\n"
    fill += 'backfill("orders", key="id", set={"code": "id::text"}, where="code IS NULL")\n'
    assert rules(find, fill) == []
    assert rules(find, f'op.execute("ALTER TABLE orders ADD a int")\n{fill}') == ["mixed-autocommit"]


def test_a_value_used_after_its_commit_is_accepted(find: Find) -> None:
    """A value that an autocommit block added may be used, but then the revision mixes both."""
    body = BLOCK + "op.execute(\"ALTER TYPE order_status ADD VALUE 'late'\")\n"
    assert rules(find, body) == []
    assert rules(find, body + "op.execute(\"INSERT INTO orders (id, status) VALUES (1, 'late')\")") == [
        "mixed-autocommit"
    ]


@pytest.mark.parametrize(
    ("create", "expected"),
    [
        ('sa.Enum("a", name="kind").create(op.get_bind())', ["type-created-twice"]),
        ('sa.Enum("a", name="kind").create(op.get_bind(), checkfirst=True)', []),
        ('op.execute("CREATE TYPE kind AS ENUM ()")', ["type-created-twice"]),
        ('op.execute("DROP TYPE kind")\nop.execute("CREATE TYPE kind AS ENUM ()")', []),
    ],
)
def test_a_type_is_created_once(find: Find, create: str, expected: list[str]) -> None:
    """A second CREATE TYPE is found, unless the type was dropped or checkfirst looks for it."""
    assert rules(find, f'op.execute("CREATE TYPE kind AS ENUM ()")\n{create}') == expected


@pytest.mark.parametrize(
    ("downgrade", "expected"),
    [
        ("pass", ["no-downgrade"]),
        ("...", ["no-downgrade"]),
        ('"""Nothing: the rows stay true."""', []),
        ('raise RuntimeError("restore the backup")', []),
    ],
)
def test_an_empty_downgrade_needs_an_explanation(find: Find, downgrade: str, expected: list[str]) -> None:
    """A downgrade that does nothing is accepted if it says why."""
    assert rules(find, 'op.execute("DELETE FROM carts")', downgrade) == expected
    assert rules(find, "pass", "pass") == []
