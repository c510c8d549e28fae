"""How a plan looks, for people and as JSON."""

import json
from dataclasses import replace
from datetime import UTC, datetime

from api.migrations.cli.plan.last_time import LastTime, LastTimes
from api.migrations.cli.plan.lock_modes import Lock, LockMode
from api.migrations.cli.plan.report import MEASURED, PlannedRevision, PlannedStatement, PlanReport, repeated_as_one
from api.migrations.cli.sql.actions import actions
from api.migrations.cli.sql.kinds import kind_of
from api.migrations.cli.sql.tokens import shown, statements
from api.migrations.databases.backend import TableSize

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
ALTER = PlannedStatement(
    *(31, "ALTER TABLE ADD COLUMN", "orders", "ALTER TABLE orders ADD COLUMN a int", 0, MEASURED),
    locks=[Lock("orders", LockMode.ACCESS_EXCLUSIVE), Lock("customers", LockMode.ACCESS_SHARE)],
    rewrites=("orders",),
    last_time=LastTime("r1", 42.0, AT, "the same table", 3),
)
INDEX = PlannedStatement(
    *(32, "CREATE INDEX", "orders", "CREATE INDEX ON orders (a)", 0, MEASURED),
    locks=[Lock("orders", LockMode.SHARE, held=LockMode.ACCESS_EXCLUSIVE, since=31)],
    reads=("orders",),
)
REPORT = PlanReport(
    message="upgrade would run 1 revision",
    revisions=[PlannedRevision("r2", "r2, Do it", [ALTER, INDEX])],
    sizes={"orders": TableSize(13_000_000_000, 80_000)},
)


def test_the_lines_name_lock_size_waiting_sessions_and_duration() -> None:
    """A statement has its lock, the table's size, which sessions wait, a rewrite, and how long its kind took."""
    assert list(REPORT.lines()) == [
        "upgrade would run 1 revision",
        "",
        "r2, Do it",
        "  line 31, measured: ALTER TABLE orders ADD COLUMN a int",
        "    ACCESS EXCLUSIVE on orders (12 GB, about 80,000 rows): readers and writers wait; rewrites the table",
        "    last time: 42.00 s (r1 with 3 statements, on the same table, 2026-11-01)",
        "  line 32, measured: CREATE INDEX ON orders (a)",
        "    SHARE on orders (12 GB, about 80,000 rows), while ACCESS EXCLUSIVE is held since line 31: readers and "
        "writers wait; reads all rows",
        "",
        "1 revision, 2 statements: 2 measured, 0 by rule; the strongest lock, in r2 line 31: ACCESS EXCLUSIVE on "
        "orders (12 GB, about 80,000 rows): readers and writers wait",
    ]


def test_the_json_has_the_same() -> None:
    """The JSON has the modes by their names, and is documented in docs/plan.md."""
    document = json.loads(json.dumps(REPORT.as_json()))
    [revision] = document["revisions"]
    first, second = revision["statements"]
    assert first["locks"][0] == {
        "on": "orders",
        "mode": "ACCESS EXCLUSIVE",
        "is_index": False,
        "held": None,
        "since": None,
        "waiting": "readers and writers wait",
    }
    assert (second["locks"][0]["held"], second["locks"][0]["since"]) == ("ACCESS EXCLUSIVE", 31)
    assert first["last_time"]["at"] == "2026-11-01T12:00:00+00:00"
    assert document["sizes"] == {"orders": {"bytes": 13_000_000_000, "rows": 80_000}}
    assert (document["strongest"]["mode"], revision["transactional"]) == ("ACCESS EXCLUSIVE", True)


def test_a_loop_is_one_line() -> None:
    """Statements of the same kind on the same table from the same line are one, with their number."""
    again, other = replace(ALTER, text="ALTER TABLE orders ADD COLUMN b int"), replace(ALTER, table="carts")
    assert [(one.table, one.times) for one in repeated_as_one([ALTER, again, other])] == [("orders", 2), ("carts", 1)]


def test_a_loop_over_objects_of_several_tables_is_a_line_for_each_table() -> None:
    """A statement that names no table, such as DROP INDEX, is another one if it locks another table."""
    one = replace(INDEX, kind="DROP INDEX", table="")
    other = replace(one, locks=[Lock("carts", LockMode.ACCESS_EXCLUSIVE)])
    assert [statement.times for statement in repeated_as_one([one, other, one])] == [2, 1]


def test_the_last_time_prefers_the_same_table() -> None:
    """The newest revision with the same kind on the same table counts, or else on another; failed attempts do not."""
    row = {"direction": "upgrade", "outcome": "applied", "started_at": AT, "finished_at": AT.replace(second=5)}
    rows = [{**row, "revision": "r3"}, {**row, "revision": "r2"}, {**row, "revision": "r1", "outcome": "failed"}]
    past = LastTimes(rows, {"r1": [("VACUUM", "a")], "r2": [("UPDATE", "a")], "r3": [("UPDATE", "b")]})
    found = [past.of_statement("UPDATE", table) for table in ("a", "c")]
    assert [(one.revision, one.same, one.seconds) for one in found if one] == [
        ("r2", "the same table", 5.0),
        ("r3", "another table", 5.0),
    ]
    assert past.of_statement("VACUUM", "a") is None
    without = past.of_statement("UPDATE", "")
    assert (without and without.same) == "this kind"
    assert past.of_revision("r2") is not None


def test_a_statement_is_shown_without_values() -> None:
    """Strings, numbers and comments are left out; sizes of types and numbers of parameters stay."""
    texts = {
        "VALUES ('a''b', 4711, -1.5, $1, E'\\'x') -- secret": "VALUES ('…', …, -…, $1, '…')",
        "ALTER TABLE t\n  ADD COLUMN a varchar(64) DEFAULT 'x';": "ALTER TABLE t ADD COLUMN a varchar(64) DEFAULT '…'",
        "DO $body$ BEGIN PERFORM 'x'; END $body$": "DO '…'",
        "SELECT f(7)": "SELECT f(…)",
    }
    assert {text: shown(text) for text in texts} == texts
    assert shown("INSERT INTO t VALUES ('it\\'s secret')") == "INSERT INTO …"
    assert shown('SELECT "secret"', quotes_are_strings=True) == "SELECT '…'"


def test_the_kind_of_a_statement_is_in_the_words_of_sql() -> None:
    """The kind has the words that decide, and no names."""
    kinds = {
        "CREATE UNIQUE INDEX CONCURRENTLY ix ON t (a)": "CREATE UNIQUE INDEX CONCURRENTLY",
        "ALTER TABLE t ALTER a TYPE bigint, DROP COLUMN b": "ALTER TABLE ALTER COLUMN TYPE, DROP COLUMN",
        "ALTER TABLE t DISABLE TRIGGER all": "ALTER TABLE DISABLE TRIGGER",
        "ALTER TABLE t SET (fillfactor = 7)": "ALTER TABLE SET",
        "VACUUM (FULL, ANALYZE) t": "VACUUM FULL",
        "DELETE FROM t": "DELETE FROM",
    }
    found = {text: kind_of(tokens, actions(tokens)) for text in kinds for tokens in statements(text)}
    assert found == kinds
