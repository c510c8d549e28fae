"""A history of revisions, each with one fault that the linters of revisions should find, and of safe ones."""

from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

INI = "[alembic]\nscript_location = %(here)s/alembic\npath_separator = os\n"
ENV = '''\
"""Runs the revisions in offline mode only."""

from alembic import context

context.configure(dialect_name="postgresql", literal_binds=True)
with context.begin_transaction():
    context.run_migrations()
'''
SOURCE = '''\
"""{id}."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "{id}"
down_revision = {below!r}
branch_labels = None
depends_on = None
{mark}

def upgrade() -> None:
{upgrade}


def downgrade() -> None:
{downgrade}
'''
EXPLAINED = '"""Nothing: this history is never applied."""'
BLOCK = "with op.get_context().autocommit_block():\n"


@dataclass(frozen=True)
class Planted:
    """A revision, and the rules that should find something in it."""

    id: str
    upgrade: str
    rules: tuple[str, ...] = ()
    downgrade: str = EXPLAINED
    mark: str = ""

    def source(self, below: str | None) -> str:
        """Return the text of its file on top of the revision `below`."""
        bodies = {name: indent(dedent(getattr(self, name)).strip(), "    ") for name in ("upgrade", "downgrade")}
        return SOURCE.format(id=self.id, below=below, mark=self.mark, **bodies)


BASE = Planted(
    "tables",
    """
    status = postgresql.ENUM("new", "paid", name="order_status", create_type=False)
    status.create(op.get_bind(), checkfirst=True)
    op.create_table(
        "customers", sa.Column("id", sa.BigInteger(), primary_key=True), sa.Column("name", sa.String(50)),
        sa.Column("email", sa.String(200)), sa.Column("phone", sa.String(50)), sa.Column("fax", sa.String(50)),
        sa.Column("age", sa.Integer()),
    )
    op.create_table(
        "orders", sa.Column("id", sa.BigInteger(), primary_key=True), sa.Column("customer_id", sa.BigInteger()),
        sa.Column("status", status), sa.Column("code", sa.String(20)), sa.Column("number", sa.Integer()),
    )
    op.create_table("carts", sa.Column("id", sa.BigInteger(), primary_key=True), sa.Column("note", sa.Text()))
    op.create_table("coupons", sa.Column("id", sa.BigInteger(), primary_key=True))
    """,
)

FAULTS = (
    Planted("type", 'op.alter_column("orders", "number", type_=sa.BigInteger())', ("table-rewrite",)),
    Planted(
        "stored",
        'op.add_column("orders", sa.Column("upper_code", sa.Text(), sa.Computed("upper(code)", persisted=True)))',
        ("table-rewrite",),
    ),
    Planted(
        "volatile",
        'op.add_column("orders", sa.Column("token", sa.Uuid(), server_default=sa.text("gen_random_uuid()")))',
        ("volatile-default",),
    ),
    Planted("index", 'op.create_index("ix_code", "orders", ["code"])', ("index-not-concurrent",)),
    Planted(
        "in_transaction",
        'op.create_index("ix_number", "orders", ["number"], postgresql_concurrently=True)',
        ("concurrent-in-transaction",),
    ),
    Planted(
        "if_not_exists",
        BLOCK + '    op.create_index("ix_n", "orders", ["id"], postgresql_concurrently=True, if_not_exists=True)',
        ("concurrent-if-not-exists",),
    ),
    Planted(
        "foreign_key",
        'op.create_foreign_key("fk_customer", "orders", "customers", ["customer_id"], ["id"])',
        ("constraint-validates",),
    ),
    Planted("check", 'op.create_check_constraint("ck_age", "customers", "age > 0")', ("constraint-validates",)),
    Planted("unique", 'op.create_unique_constraint("uq_email", "customers", ["email"])', ("unique-without-index",)),
    Planted("not_null", 'op.alter_column("customers", "email", nullable=False)', ("set-not-null",)),
    Planted(
        "validated_at_once",
        """
        op.create_check_constraint("ck_code", "orders", "code <> ''", postgresql_not_valid=True)
        op.execute("ALTER TABLE orders VALIDATE CONSTRAINT ck_code")
        """,
        ("validate-in-transaction",),
    ),
    Planted("rename_column", 'op.alter_column("customers", "name", new_column_name="full_name")', ("rename-column",)),
    Planted("rename_table", 'op.rename_table("carts", "baskets")', ("rename-table",)),
    Planted(
        "rename_value", """op.execute("ALTER TYPE order_status RENAME VALUE 'new' TO 'open'")""", ("rename-value",)
    ),
    Planted("drop_column", 'op.drop_column("customers", "fax")', ("drop-column",)),
    Planted("drop_table", 'op.drop_table("coupons")', ("drop-table",)),
    Planted(
        "required", 'op.add_column("orders", sa.Column("region", sa.Text(), nullable=False))', ("required-column",)
    ),
    Planted(
        "enum_value",
        """
        op.execute("ALTER TYPE order_status ADD VALUE 'returned'")
        op.execute("INSERT INTO orders (id, status) VALUES (0, 'returned')")
        """,
        ("enum-value-in-transaction",),
    ),
    Planted(
        "type_twice",
        """
        kind = sa.Enum("gift", "sale", name="order_kind")
        kind.create(op.get_bind(), checkfirst=True)
        op.create_table("kinds", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("kind", kind))
        """,
        ("type-created-twice",),
    ),
    Planted(
        "both_phases",
        """
        op.add_column("customers", sa.Column("mobile", sa.String(50)))
        op.drop_column("customers", "phone")
        """,
        ("drop-column", "two-phases"),
    ),
    Planted(
        "mixed",
        'op.add_column("orders", sa.Column("place", sa.Text()))\n'
        + BLOCK
        + '    op.create_index("ix_place", "orders", ["place"], postgresql_concurrently=True)',
        ("mixed-autocommit",),
    ),
    Planted(
        "backfill",
        """
        op.add_column("orders", sa.Column("year", sa.Integer()))
        op.execute("UPDATE orders SET year = 2026")
        """,
        ("data-and-schema",),
    ),
    Planted("no_downgrade", 'op.add_column("orders", sa.Column("hint", sa.Text()))', ("no-downgrade",), "pass"),
    Planted("an_id_that_is_longer_than_thirty_two", 'op.execute("SELECT 1")', ("long-id",)),
)

SAFE = (
    Planted("longer", 'op.alter_column("orders", "code", type_=sa.String(40))'),
    Planted("nullable", 'op.add_column("orders", sa.Column("gift", sa.Boolean(), server_default=sa.false()))'),
    Planted("constant", 'op.add_column("orders", sa.Column("seen_at", sa.DateTime(), server_default=sa.func.now()))'),
    Planted(
        "concurrent", BLOCK + '    op.create_index("ix_id", "orders", ["id", "code"], postgresql_concurrently=True)'
    ),
    Planted(
        "new_table",
        """
        op.create_table("notes", sa.Column("id", sa.BigInteger(), primary_key=True), sa.Column("text", sa.Text()))
        op.create_index("ix_text", "notes", ["text"])
        op.create_check_constraint("ck_text", "notes", "text <> ''")
        op.create_foreign_key("fk_note", "notes", "orders", ["id"], ["id"], postgresql_not_valid=True)
        op.alter_column("notes", "text", nullable=False)
        """,
    ),
    Planted(
        "not_valid",
        'op.create_check_constraint("ck_age_known", "customers", "age IS NOT NULL", postgresql_not_valid=True)',
    ),
    Planted("validate", 'op.execute("ALTER TABLE customers VALIDATE CONSTRAINT ck_age_known")'),
    Planted("proven", 'op.alter_column("customers", "age", nullable=False)'),
    Planted("unique_index", BLOCK + '    op.execute("CREATE UNIQUE INDEX CONCURRENTLY uq_code ON orders (code)")'),
    Planted("using_index", 'op.execute("ALTER TABLE orders ADD CONSTRAINT uq_code UNIQUE USING INDEX uq_code")'),
    Planted("only_rows", 'op.execute("UPDATE orders SET gift = false WHERE gift IS NULL")'),
    Planted("drop_constraint", 'op.drop_constraint("ck_age_known", "customers")'),
)


def write_history(folder: Path, *planted: Planted) -> Path:
    """Write a history of `planted` revisions, each on top of the one before; return its alembic.ini."""
    versions = folder / "alembic" / "versions"
    versions.mkdir(parents=True)
    (folder / "alembic" / "env.py").write_text(ENV)
    (folder / "alembic.ini").write_text(INI)
    below: str | None = None
    for number, one in enumerate(planted):
        (versions / f"{number:02}_{one.id}.py").write_text(one.source(below))
        below = one.id
    return folder / "alembic.ini"
