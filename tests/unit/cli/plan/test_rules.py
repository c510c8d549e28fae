"""The lock modes by rule where no server is needed: what a statement's words change, and what is not known."""

import pytest

from api.migrations.cli.plan.lock_modes import LockMode
from api.migrations.cli.plan.planning import RevisionPlanner
from api.migrations.cli.plan.recorder import Executed
from api.migrations.cli.plan.report import PlannedStatement
from api.migrations.cli.sql.tables import Tables

SUE, SRE, AE = LockMode.SHARE_UPDATE_EXCLUSIVE, LockMode.SHARE_ROW_EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE


def planned(*statements: str, transaction: int | None = 0) -> list[PlannedStatement]:
    """Return statements of one revision by rule, each on its own line."""
    executed = [Executed(sql, line, transaction) for line, sql in enumerate(statements, 1)]
    return list(RevisionPlanner(Tables(), lock_rules=True).measured(executed))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("ALTER TABLE t CLUSTER ON t_pkey", {"t": SUE}),
        ("ALTER TABLE t SET (autovacuum_enabled = off, fillfactor = 50)", {"t": SUE}),
        ("ALTER TABLE t SET (user_catalog_table = true)", {"t": AE}),
        ("ALTER TABLE t ADD COLUMN x int, ALTER COLUMN y SET STATISTICS 9", {"t": AE}),
        ("ALTER TABLE t DETACH PARTITION p", {"t": AE, "p": AE}),
        ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", {"t": SUE, "p": AE}),
        ("ALTER TABLE t ADD COLUMN x int REFERENCES u (id)", {"t": AE, "u": SRE}),
        ("ALTER TABLE t ADD FOREIGN KEY (x) REFERENCES u (id) NOT VALID", {"t": SRE, "u": SRE}),
        ("ALTER INDEX ix RENAME TO iy", {"ix": SUE}),
        ("CREATE OR REPLACE TRIGGER g BEFORE INSERT ON t EXECUTE FUNCTION f()", {"t": SRE}),
        ("SELECT * FROM t WHERE id = 1 FOR UPDATE", {"t": LockMode.ROW_SHARE}),
        ("COPY t FROM stdin", {"t": LockMode.ROW_EXCLUSIVE}),
        ("COMMENT ON COLUMN shop.t.x IS 'a'", {"shop.t": SUE}),
        ("LOCK t, u IN EXCLUSIVE MODE", {"t": LockMode.EXCLUSIVE, "u": LockMode.EXCLUSIVE}),
        ("CREATE TABLE n (x int REFERENCES u (id), FOREIGN KEY (x) REFERENCES v (id))", {"u": SRE, "v": SRE}),
        ("CREATE TYPE mood AS ENUM ('a')", {}),
        ("GRANT SELECT ON t TO app", {}),
    ],
)
def test_the_words_of_a_statement_decide(sql: str, expected: dict[str, LockMode]) -> None:
    """Each form has the mode that its page of the documentation notes, or else ACCESS EXCLUSIVE for ALTER TABLE."""
    [statement] = planned(sql)
    assert {lock.on: lock.mode for lock in statement.locks} == expected
    assert statement.notes == (("how many rows it changes is not known",) if sql.startswith("COPY") else ())


@pytest.mark.parametrize(
    "sql",
    [
        "DO $$ BEGIN EXECUTE 'DROP TABLE t'; END $$",
        "CALL work()",
        "ALTER SEQUENCE s RESTART",
        "DROP SCHEMA old CASCADE",
        "DROP TYPE mood CASCADE",
        "ALTER DOMAIN positive ADD CHECK (value > 0)",
        "ALTER EXTENSION hstore UPDATE",
    ],
)
def test_what_the_documentation_leaves_out_is_not_guessed(sql: str) -> None:
    """A statement whose locks its words do not tell is marked as unknown."""
    [statement] = planned(sql)
    assert (statement.locks, statement.notes) == ((), ("what it locks is not known",))


@pytest.mark.parametrize(
    ("sql", "rewrites", "reads"),
    [
        ("ALTER TABLE t ADD COLUMN x int DEFAULT 1", (), ()),
        ("ALTER TABLE t ADD COLUMN x uuid DEFAULT gen_random_uuid()", ("t",), ()),
        ("ALTER TABLE t ADD COLUMN x int GENERATED ALWAYS AS (y + 1) STORED", ("t",), ()),
        ("ALTER TABLE t ADD COLUMN x int CHECK (x > 0)", (), ("t",)),
        ("ALTER TABLE t SET LOGGED", ("t",), ()),
        ("ALTER TABLE t ADD CONSTRAINT c CHECK (x > 0) NOT VALID", (), ()),
        ("ALTER TABLE t ADD CONSTRAINT u UNIQUE USING INDEX ix", (), ()),
        ("ALTER TABLE t ADD FOREIGN KEY (x) REFERENCES u (id)", (), ("t", "u")),
        ("ALTER TABLE t ATTACH PARTITION p DEFAULT", (), ("p",)),
        ("DROP TABLE t", (), ()),
    ],
)
def test_rewrites_and_reads_follow_the_notes(sql: str, rewrites: tuple[str, ...], reads: tuple[str, ...]) -> None:
    """What writes or reads all rows takes longer the larger the table is."""
    [statement] = planned(sql)
    assert (statement.rewrites, statement.reads) == (rewrites, reads)


def test_a_validated_check_spares_set_not_null_the_rows() -> None:
    """SET NOT NULL reads no rows if an earlier statement validated a check that proves it."""
    check = "ALTER TABLE t ADD CONSTRAINT c CHECK (x IS NOT NULL)"
    assert planned("ALTER TABLE t ALTER COLUMN x SET NOT NULL")[0].reads == ("t",)
    assert planned(check, "ALTER TABLE t ALTER COLUMN x SET NOT NULL")[1].reads == ()


def test_a_new_table_of_the_revision_is_not_locked_for_others() -> None:
    """What a revision does to a table that it creates lets no session wait."""
    _, index = planned("CREATE TABLE t (a int)", "CREATE INDEX ON t (a)")
    assert (index.locks, index.reads) == ((), ())


def test_the_index_leads_to_its_table() -> None:
    """DROP INDEX names the table if an earlier statement made the index, and otherwise says what is known."""
    known, dropped = planned("CREATE INDEX CONCURRENTLY ix ON t (a)", "DROP INDEX ix", transaction=None)
    assert {lock.on for lock in dropped.locks} == {"t", "ix"}
    assert known.locks[0].mode is SUE
    [unknown] = planned("DROP INDEX CONCURRENTLY other")
    assert [(lock.on, lock.mode) for lock in unknown.locks if not lock.is_index] == [("the table of other", SUE)]


@pytest.mark.parametrize("sql", ["ALTER TABLE t DROP CONSTRAINT f", "DROP TABLE t"])
def test_a_foreign_key_is_dropped_from_both_tables(sql: str) -> None:
    """The referenced table is locked too, because its triggers are dropped, if the history says that there is one."""
    added = "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (x) REFERENCES u (id)"
    assert {lock.on: lock.mode for lock in planned(added, sql)[1].locks} == {"t": AE, "u": AE}
    assert [lock.on for lock in planned(sql)[0].locks] == ["t"]


def test_what_depends_on_a_dropped_object_is_not_known() -> None:
    """CASCADE drops what the statement does not name."""
    [dropped] = planned("DROP TABLE t CASCADE")
    assert ([lock.on for lock in dropped.locks], dropped.notes) == (["t"], ("what else it locks is not known",))


def test_the_modes_say_which_sessions_wait() -> None:
    """The phrases follow the table of conflicting lock modes."""
    waiting = {mode: mode.waiting for mode in LockMode}
    assert waiting[AE] == "readers and writers wait"
    assert {waiting[mode] for mode in (LockMode.SHARE, SRE, LockMode.EXCLUSIVE)} == {"writers wait"}
    assert waiting[SUE] == "readers and writers go on"
    assert {waiting[LockMode.ROW_SHARE], waiting[LockMode.ROW_EXCLUSIVE]} == {
        "readers go on, writers wait for the same rows only"
    }
    assert waiting[LockMode.ACCESS_SHARE] == "none waits"
