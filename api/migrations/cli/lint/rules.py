"""The rules of `lint`: what each finds, what it does to readers and writers, and the safe recipe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """A rule; `effect` and `fix` are sentences in which a finding fills the braces."""

    id: str
    finds: str
    effect: str
    fix: str


_BLOCK = "with op.get_context().autocommit_block()"
_LATER = (
    "in a release after the last one that uses it: in a revision with phase = 'contract' and requires = 'REV', or with "
    "'# lint: ignore[{rule}] reason' beside it"
)

_ON_TABLES = (
    Rule(
        "table-rewrite",
        "a change that rewrites the table (type, stored column, logging, CLUSTER, VACUUM FULL)",
        "Readers and writers of {table} wait while the server writes the whole table anew ({why}).",
        "add a column of the new type, let the release write both, backfill it in its own revision, then drop the old "
        "column in a later release",
    ),
    Rule(
        "volatile-default",
        "a new column whose default is computed for each row",
        "Readers and writers of {table} wait while the server writes the whole table anew, because {why}.",
        "add the column without a default, set the default with op.alter_column, and backfill it in its own revision",
    ),
    Rule(
        "index-not-concurrent",
        "an index on an existing table, built without CONCURRENTLY",
        "Writers of {table} wait until the index is built; readers do not.",
        f"pass postgresql_concurrently=True inside '{_BLOCK}', in a revision of its own",
    ),
    Rule(
        "concurrent-in-transaction",
        "CONCURRENTLY inside a transaction",
        "Readers and writers see no change: the server refuses the statement on {table}, and the migration fails.",
        f"put the statement inside '{_BLOCK}', in a revision of its own",
    ),
    Rule(
        "concurrent-if-not-exists",
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS",
        "Readers of {table} get no index: after an interrupted build the retry keeps the INVALID index and succeeds.",
        "drop the index first (if_exists=True, postgresql_concurrently=True), create it without if_not_exists, and "
        "declare 'idempotent = True'",
    ),
    Rule(
        "constraint-validates",
        "a FOREIGN KEY or CHECK on an existing table without NOT VALID",
        "Writers of {table}{readers} wait while the server checks all existing rows.",
        "pass postgresql_not_valid=True, and run ALTER TABLE {table} VALIDATE CONSTRAINT in the next revision",
    ),
    Rule(
        "unique-without-index",
        "UNIQUE, PRIMARY KEY or EXCLUDE on an existing table without USING INDEX",
        "Readers and writers of {table} wait until the index of the constraint is built.",
        f"create a unique index with postgresql_concurrently=True inside '{_BLOCK}', and in the next revision run "
        "ALTER TABLE {table} ADD CONSTRAINT … UNIQUE USING INDEX … (EXCLUDE has no such way)",
    ),
    Rule(
        "set-not-null",
        "SET NOT NULL without a validated check",
        "Readers and writers of {table} wait while the server checks all existing rows for NULL in {column}.",
        "add CHECK ({column} IS NOT NULL) with postgresql_not_valid=True, validate it in the next revision, and set "
        "NOT NULL in the one after",
    ),
    Rule(
        "validate-in-transaction",
        "VALIDATE CONSTRAINT in the transaction that altered the table",
        "Readers and writers of {table} wait during the validation, because the transaction keeps the stronger lock of "
        "line {other}.",
        "validate the constraint in a revision of its own",
    ),
)

_ON_RELEASES = (
    Rule(
        "rename-column",
        "a column is renamed",
        "Queries of the old release that name {table}.{column} fail from the COMMIT on.",
        "add a column, write both, backfill, read the new one in the next release, and drop the old one " + _LATER,
    ),
    Rule(
        "rename-table",
        "a table is renamed",
        "Queries of the old release that name {table} fail from the COMMIT on.",
        "rename the table and create a view with the old name in the same revision, and drop the view in a later "
        "release; or keep the name and map it in the model (__tablename__)",
    ),
    Rule(
        "rename-value",
        "a value of an enum is renamed",
        "Queries of the old release that name the value {column} of {table} fail from the COMMIT on.",
        "add the new value, move the rows in a later revision, and keep the old value",
    ),
    Rule(
        "drop-column",
        "a column is dropped",
        "Queries of the old release that name {table}.{column} fail from the COMMIT on.",
        "remove the column from the models first, and drop it " + _LATER,
    ),
    Rule(
        "drop-table",
        "a table is dropped",
        "Queries of the old release that name {table} fail from the COMMIT on.",
        "remove the model first, and drop the table " + _LATER,
    ),
    Rule(
        "required-column",
        "a new column is NOT NULL and has no default",
        "INSERTs of the old release into {table} fail, because they do not know {column}; with rows in the table the "
        "revision fails.",
        "add the column with a constant server_default, or nullable; see set-not-null for the next step",
    ),
)

_ON_REVISIONS = (
    Rule(
        "expand-breaks",
        "a revision marked as expand renames, drops, or requires a column",
        "Queries of the old release on {table} fail, although the mark says that it runs after this revision: {why}.",
        "move the statement into a revision with phase = 'contract' and requires = 'REV', the revision that a build "
        "must contain to run without it",
    ),
    Rule(
        "enum-value-in-transaction",
        "a new enum value is used in the transaction that adds it",
        "Readers and writers see no change: the server refuses the value {column} until it is committed, and the "
        "migration fails.",
        "add the value in a revision of its own, and use it in the next one",
    ),
    Rule(
        "type-created-twice",
        "a type is created although an earlier statement created it",
        "Readers and writers see no change: the migration fails, because an earlier statement created the type {table} "
        "(unless both are in op.create_table and run at once, because then Alembic creates it once).",
        "use postgresql.ENUM(…, create_type=False) in the table, and create the type once with .create(op.get_bind(), "
        "checkfirst=True)",
    ),
    Rule(
        "two-phases",
        "one revision adds (expand) and drops (contract)",
        "The old release fails without what line {other} drops, and the new one cannot start without what is added: no "
        "moment serves both.",
        "split the revision: add in this release, drop in a later one",
    ),
    Rule(
        "mixed-autocommit",
        "other work in a revision with an autocommit_block",
        "If the block or what follows fails, what is already committed stays: the revision is half applied, and no "
        "instance starts until a person repairs it.",
        "put the autocommit_block (line {other}) into a revision of its own",
    ),
    Rule(
        "data-and-schema",
        "one transaction alters an existing table and changes rows",
        "Readers and writers of {table} wait until the rows are changed, because one transaction keeps both locks.",
        "move the change of rows (line {other}) into a revision of its own",
    ),
    Rule(
        "no-downgrade",
        "downgrade() is missing or empty, although upgrade() does something",
        "Readers and writers keep the new schema: './migrate.sh downgrade' succeeds and undoes nothing.",
        "write downgrade(), explain in its docstring why nothing needs to be undone, or raise an error in it",
    ),
    Rule(
        "long-id",
        "the id of a revision has more than 32 characters",
        "Readers and writers see no change: the migration is refused, because Alembic's version table holds 32 "
        "characters.",
        "shorten the id {table} in the file and in the down_revision of its children; if version_num is wider, ignore "
        "this finding",
    ),
    Rule(
        "several-heads",
        "the revisions have several heads",
        "No instance starts: 'head' is ambiguous ({why}).",
        "join them with 'alembic merge heads', or set MIGRATION_TARGET=heads if several are intended",
    ),
    Rule(
        "not-rendered",
        "upgrade() cannot be executed without a database",
        "Unknown: lint did not see what follows line {other}, because it failed: {why}.",
        "guard what needs a database with 'if not op.get_context().as_sql:', or review the revision by hand and add "
        "'# lint: ignore[not-rendered] reason'",
    ),
    Rule(
        "bad-ignore",
        "a comment '# lint: ignore[…]' has no reason or names no rule; it cannot be ignored",
        "The comment suppresses nothing: {why}.",
        "write '# lint: ignore[rule-id] reason' with ids that 'lint --rules' lists",
    ),
)

RULES = {rule.id: rule for rule in (*_ON_TABLES, *_ON_RELEASES, *_ON_REVISIONS)}
"""All rules by their ids."""


@dataclass(frozen=True)
class Finding:
    """What a rule found, and where."""

    rule: str
    path: str
    """Relative to the current folder."""
    line: int
    revision: str
    message: str
    """What happens to readers and writers, in a sentence."""
    fix: str


@dataclass(frozen=True)
class Hit:
    """A place where a rule applies, and the words for its sentences."""

    rule: str
    line: int
    words: dict[str, object]


def hit(rule: str, line: int, **words: object) -> Hit:
    """Return a hit; `words` fill the braces of the rule's sentences."""
    return Hit(rule, line, words)


def finding(hit: Hit, path: str, revision: str) -> Finding:
    """Return the finding of a hit in the file `path` of `revision`."""
    rule, words = RULES[hit.rule], {"rule": hit.rule, **hit.words}
    return Finding(hit.rule, path, hit.line, revision, rule.effect.format_map(words), rule.fix.format_map(words))
