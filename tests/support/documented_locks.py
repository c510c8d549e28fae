"""Kinds of statement with the lock modes that PostgreSQL's documentation gives, word for word.

Each has a table of its own, so that all can be pending revisions of one history.
"""

from dataclasses import dataclass, field
from textwrap import dedent

EXPLICIT = "Explicit Locking"
ALTER_TABLE = "ALTER TABLE"
UNLESS_NOTED = "An ACCESS EXCLUSIVE lock is acquired unless explicitly noted."
LISTED = {
    "SHARE UPDATE EXCLUSIVE": "Acquired by VACUUM (without FULL), ANALYZE, CREATE INDEX CONCURRENTLY, CREATE "
    "STATISTICS, COMMENT ON, REINDEX CONCURRENTLY, and certain ALTER INDEX and ALTER TABLE variants",
    "SHARE": "Acquired by CREATE INDEX (without CONCURRENTLY).",
    "SHARE ROW EXCLUSIVE": "Acquired by CREATE TRIGGER and some forms of ALTER TABLE.",
    "EXCLUSIVE": "Acquired by REFRESH MATERIALIZED VIEW CONCURRENTLY.",
    "ACCESS EXCLUSIVE": "Acquired by the DROP TABLE, TRUNCATE, REINDEX, CLUSTER, VACUUM FULL, and REFRESH MATERIALIZED "
    "VIEW (without CONCURRENTLY) commands.",
    "ROW EXCLUSIVE": "The commands UPDATE, DELETE, INSERT, and MERGE acquire this lock mode on the target table",
}


@dataclass(frozen=True)
class Documented:
    """A statement, the locks that the documentation gives for it by table, the page and its words."""

    name: str
    sql: str
    locks: dict[str, str]
    page: str = ALTER_TABLE
    words: str = UNLESS_NOTED
    setup: str = "CREATE TABLE {t} (id int PRIMARY KEY, x int)"
    """What exists before; `{t}` is the table."""
    rewrites: bool = False
    reads: bool = False
    """Whether it reads all rows, without a rewrite."""
    autocommit: bool = False
    """Whether it cannot run in a transaction."""
    more: tuple[str, ...] = field(default=())

    @property
    def table(self) -> str:
        """Its table."""
        return f"t_{self.name}"

    @property
    def statement(self) -> str:
        """The statement on its table."""
        return self.sql.format(t=self.table)

    @property
    def expected(self) -> dict[str, str]:
        """The mode by table."""
        return {table.format(t=self.table): mode for table, mode in self.locks.items()}

    @property
    def prepared(self) -> str:
        """The body of a revision that makes what exists before."""
        each = (self.setup, *self.more)
        return "".join(f"op.execute({sql.format(t=self.table)!r})\n" for sql in each)

    @property
    def revision(self) -> str:
        """The body of the revision that executes it."""
        body = f"op.execute({self.statement!r})"
        return f"with op.get_context().autocommit_block():\n    {body}" if self.autocommit else body


def _listed(name: str, mode: str, sql: str, **more: object) -> Documented:
    return Documented(name, sql, {"{t}": mode}, EXPLICIT, LISTED[mode], **more)  # type: ignore[arg-type]


def _noted(name: str, mode: str, sql: str, words: str, **more: object) -> Documented:
    return Documented(name, sql, {"{t}": mode}, ALTER_TABLE, words, **more)  # type: ignore[arg-type]


_PARTITIONED = "CREATE TABLE {t} (id int) PARTITION BY RANGE (id)"
_PART = "CREATE TABLE {t}_part (id int)"
_VIEWED = ("CREATE MATERIALIZED VIEW {t}_view AS SELECT id FROM {t}", "CREATE UNIQUE INDEX ON {t}_view (id)")
_FUNCTION = "CREATE OR REPLACE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
_TRIGGER = "CREATE TRIGGER {t}_trigger BEFORE UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION nothing()"
_FOREIGN = (
    "ADD FOREIGN KEY requires only a SHARE ROW EXCLUSIVE lock. Note that ADD FOREIGN KEY also acquires a SHARE ROW "
    "EXCLUSIVE lock on the referenced table"
)
_PARAMETERS = (
    "SHARE UPDATE EXCLUSIVE lock will be taken for fillfactor, toast and autovacuum storage parameters, as well as the "
    "planner parameter parallel_workers."
)
_ATTACHES = (
    "Attaching a partition acquires a SHARE UPDATE EXCLUSIVE lock on the parent table, in addition to the ACCESS "
    "EXCLUSIVE locks on the table being attached"
)

SE, SRE, AE = "SHARE UPDATE EXCLUSIVE", "SHARE ROW EXCLUSIVE", "ACCESS EXCLUSIVE"

DOCUMENTED = (
    _noted("add_column", AE, "ALTER TABLE {t} ADD COLUMN y int", UNLESS_NOTED),
    _noted("add_filled", AE, "ALTER TABLE {t} ADD COLUMN y float DEFAULT random()", UNLESS_NOTED, rewrites=True),
    _noted("change_type", AE, "ALTER TABLE {t} ALTER COLUMN x TYPE bigint", UNLESS_NOTED, rewrites=True),
    _noted("set_not_null", AE, "ALTER TABLE {t} ALTER COLUMN x SET NOT NULL", UNLESS_NOTED, reads=True),
    _noted("rename", AE, "ALTER TABLE {t} RENAME COLUMN x TO y", UNLESS_NOTED),
    _noted("add_check", AE, "ALTER TABLE {t} ADD CONSTRAINT c CHECK (x > 0)", UNLESS_NOTED, reads=True),
    _noted("add_unique", AE, "ALTER TABLE {t} ADD CONSTRAINT {t}_u UNIQUE (x)", UNLESS_NOTED, reads=True),
    _noted("drop_column", AE, "ALTER TABLE {t} DROP COLUMN x", UNLESS_NOTED),
    Documented(
        "add_foreign_key",
        "ALTER TABLE {t} ADD CONSTRAINT f FOREIGN KEY (x) REFERENCES {t}_other (id)",
        {"{t}": SRE, "{t}_other": SRE},
        words=_FOREIGN,
        more=("CREATE TABLE {t}_other (id int PRIMARY KEY)",),
        reads=True,
    ),
    _noted(
        "validate",
        SE,
        "ALTER TABLE {t} VALIDATE CONSTRAINT c",
        "This command acquires a SHARE UPDATE EXCLUSIVE lock.",
        more=("ALTER TABLE {t} ADD CONSTRAINT c CHECK (x > 0) NOT VALID",),
        reads=True,
    ),
    _noted(
        "set_statistics",
        SE,
        "ALTER TABLE {t} ALTER COLUMN x SET STATISTICS 500",
        f"SET STATISTICS acquires a {SE} lock.",
    ),
    _noted("set_parameter", SE, "ALTER TABLE {t} SET (fillfactor = 70)", _PARAMETERS),
    _noted(
        "enable_trigger",
        SRE,
        "ALTER TABLE {t} ENABLE TRIGGER {t}_trigger",
        "This command acquires a SHARE ROW EXCLUSIVE lock.",
        more=(_FUNCTION, _TRIGGER),
    ),
    Documented(
        "attach",
        "ALTER TABLE {t} ATTACH PARTITION {t}_part FOR VALUES FROM (1) TO (2)",
        {"{t}": SE, "{t}_part": AE},
        words=_ATTACHES,
        setup=_PARTITIONED,
        more=(_PART,),
    ),
    Documented(
        "partition_of",
        "CREATE TABLE {t}_new PARTITION OF {t} FOR VALUES FROM (1) TO (2)",
        {"{t}": AE},
        page="CREATE TABLE",
        words="creating a partition using PARTITION OF requires taking an ACCESS EXCLUSIVE lock on the parent",
        setup=_PARTITIONED,
    ),
    _listed("create_index", "SHARE", "CREATE INDEX ON {t} (x)", reads=True),
    Documented(
        "drop_index",
        "DROP INDEX {t}_x",
        {"{t}": AE},
        page="DROP INDEX",
        words="A normal DROP INDEX acquires an ACCESS EXCLUSIVE lock on the table",
        more=("CREATE INDEX {t}_x ON {t} (x)",),
    ),
    Documented(
        "reindex_table",
        "REINDEX TABLE {t}",
        {"{t}": "SHARE"},
        page="REINDEX",
        words="locks out writes but not reads of the index's parent table",
        reads=True,
    ),
    _listed("create_trigger", SRE, _TRIGGER, more=(_FUNCTION,)),
    _listed("comment_on", SE, "COMMENT ON TABLE {t} IS 'text'"),
    _listed("create_statistics", SE, "CREATE STATISTICS {t}_s ON id, x FROM {t}"),
    _listed("analyze", SE, "ANALYZE {t}"),
    _listed("truncate", AE, "TRUNCATE TABLE {t}"),
    _listed("drop_table", AE, "DROP TABLE {t}"),
    _listed("cluster", AE, "CLUSTER {t} USING {t}_pkey", rewrites=True),
    _listed("update", "ROW EXCLUSIVE", "UPDATE {t} SET x = 1"),
    _listed("insert", "ROW EXCLUSIVE", "INSERT INTO {t} VALUES (1, 2)"),
    Documented(
        "lock_table",
        "LOCK TABLE {t} IN SHARE ROW EXCLUSIVE MODE",
        {"{t}": SRE},
        page="LOCK",
        words="the lock mode specifies which locks this lock conflicts with",
    ),
    Documented(
        "refresh",
        "REFRESH MATERIALIZED VIEW {t}_view",
        {"{t}_view": AE},
        EXPLICIT,
        LISTED[AE],
        more=_VIEWED,
        rewrites=True,
    ),
    Documented(
        "refresh_concurrently",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY {t}_view",
        {"{t}_view": "EXCLUSIVE"},
        EXPLICIT,
        LISTED["EXCLUSIVE"],
        more=_VIEWED,
        reads=True,
    ),
    _listed("index_concurrently", SE, "CREATE INDEX CONCURRENTLY ON {t} (x)", reads=True, autocommit=True),
    _listed("reindex_concurrently", SE, "REINDEX TABLE CONCURRENTLY {t}", reads=True, autocommit=True),
    _listed("vacuum", SE, "VACUUM {t}", autocommit=True),
    _listed("vacuum_full", AE, "VACUUM FULL {t}", rewrites=True, autocommit=True),
)
"""All kinds."""


def by_name(name: str) -> Documented:
    """Return one kind."""
    return next(each for each in DOCUMENTED if each.name == name)


def history() -> tuple[str, list[str]]:
    """Return the body of the first revision, which makes the tables, and those of one revision for each kind."""
    return dedent("".join(each.prepared for each in DOCUMENTED)), [each.revision for each in DOCUMENTED]
