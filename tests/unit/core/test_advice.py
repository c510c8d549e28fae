"""The advice in each state: what to do, the commands to type, and the section of the runbook."""

import shlex
from dataclasses import replace
from typing import Any

import pytest

from api.migrations.core.advice import advise
from api.migrations.core.remedies import Advice
from api.migrations.core.schema import HalfApplied, Recorded, Schema, SchemaState
from api.migrations.core.status import (
    Blocker,
    Holder,
    LockStatus,
    Phase,
    Retry,
    Statement,
    Status,
)
from api.migrations.errors import (
    AccessRefused,
    AlreadyFailed,
    ConfigurationError,
    DatabaseUnreachable,
    ElectorUnreachable,
    HoldLost,
    MigrationError,
    NoConnectionLeft,
    OldInstances,
    RevisionFailed,
    RunTimeout,
    SchemaRefused,
    TableLockTimeout,
    WaitTimeout,
)
from tests.support.shell import SECTIONS

NOW = 1700000100.0
BEHIND = Schema(SchemaState.BEHIND, frozenset("a"), frozenset("c"), ("b", "c"))
WAITING = Status(Phase.WAITING, schema=BEHIND, reachable=True)
HOLDER = Holder("web-1", 4242, NOW, "active")
LUNCH = Blocker(77, "lunch", "app", "idle in transaction", 9.0, "accounts", "AccessExclusiveLock")
MIGRATE = ("./migrate.sh upgrade",)
WAIT = ("./migrate.sh wait",)
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM (SELECT DISTINCT pid FROM pg_locks "
    "WHERE pid IN (77) AND granted AND relation IN ('accounts'::regclass)) blocking"
)


def while_held(**facts: Any) -> Status:
    """Return the status of a waiter whose lock holder has these facts."""
    return replace(WAITING, lock_status=LockStatus(HOLDER, **facts))


def in_schema(state: SchemaState, **facts: Any) -> Status:
    """Return the status of a waiter while the lock is free and the schema is in `state`."""
    return replace(WAITING, schema=replace(BEHIND, state=state, pending=(), **facts))


def failed(error: type[MigrationError], **facts: Any) -> Status:
    """Return the status of an instance that failed with an error of this class."""
    return replace(WAITING, phase=Phase.FAILED, error_class=error, **facts)


BUILDS = (
    """psql "$OWNER_URL" -c 'SELECT application_name, usename, client_addr, count(*) FROM pg_stat_activity """
    """WHERE position('"'"'@'"'"' IN application_name) > 1 GROUP BY 1, 2, 3'"""
)
HALF = HalfApplied("b", "CREATE INDEX", ('"ix B"',))
TABLE: dict[str, tuple[Status, tuple[str, ...], str, tuple[str, ...]]] = {
    "waiting": (WAITING, ("acquires the lock within seconds",), "Stuck migration", MIGRATE),
    "waiting for a job": (replace(WAITING, strategy="job"), ("Run the job",), "Stuck migration", MIGRATE),
    "not read yet": (Status(Phase.CHECKING), ("Wait",), "Where to look first", ("./migrate.sh status",)),
    "verifying": (
        Status(Phase.VERIFYING, schema=replace(BEHIND, state=SchemaState.AT_HEAD, pending=())),
        ("Wait",),
        "Where to look first",
        ("./migrate.sh status",),
    ),
    "after a failure elsewhere": (
        replace(WAITING, recent=(Recorded("b", "upgrade", "failed", "web-9", NOW),)),
        ("Correct the data", "tries again."),
        "Failed migration",
        ("./migrate.sh history --limit 10", *MIGRATE),
    ),
    "migrating": (
        replace(WAITING, phase=Phase.MIGRATING, lock_status=LockStatus(HOLDER, Statement("CREATE INDEX"))),
        ("Wait: this instance executes CREATE INDEX",),
        "Stuck migration",
        WAIT,
    ),
    "computing": (replace(WAITING, phase=Phase.MIGRATING), ("between two statements",), "Stuck migration", WAIT),
    "another executes": (while_held(statement=Statement("ALTER TABLE")), ("web-1 executes",), "Stuck migration", WAIT),
    "another computes": (
        while_held(),
        ("computes in Python", "frozen", "MIGRATION_IDLE_SECONDS"),
        "Stuck migration",
        ("./migrate.sh unlock",),
    ),
    "another stopped": (
        while_held(silent_seconds=30.0),
        ("stopped while it sent a statement",),
        "Stuck migration",
        ("./migrate.sh unlock",),
    ),
    "another is hidden": (
        replace(WAITING, lock_status=LockStatus(replace(HOLDER, state=None), grant="GRANT x TO y")),
        ("cannot see what web-1 executes",),
        "Stuck migration",
        ('psql "$SUPERUSER_URL" -c "GRANT x TO y"', "./migrate.sh status"),
    ),
    "another database": (
        replace(WAITING, lock_status=LockStatus(replace(HOLDER, state=None))),
        ("does not show", "unlock"),
        "Not PostgreSQL",
        WAIT,
    ),
    "elected": (replace(WAITING, lock_status=LockStatus(Holder("web-3"))), ("elected",), "Stuck migration", WAIT),
    "between two attempts": (
        while_held(retry=Retry(2, 5.0)),
        ("web-1 tries again at 22:15:05 UTC",),
        "Stuck migration",
        WAIT,
    ),
    "unreachable": (
        replace(WAITING, reachable=False),
        ("Check that the database runs", "connects again by itself"),
        "Database unreachable",
        ("./migrate.sh status",),
    ),
    "no answer of the elector": (
        replace(WAITING, reachable=False, error_class=ElectorUnreachable),
        ("Redis or the Kubernetes API",),
        "Redis or Kubernetes decides which instance tries",
        ("./migrate.sh doctor",),
    ),
    "ahead": (
        in_schema(SchemaState.AHEAD, unknown=frozenset("z")),
        ("Deploy the release that contains z", "Do not stamp"),
        "Database ahead",
        ("./migrate.sh check",),
    ),
    "ready on a newer schema": (
        replace(in_schema(SchemaState.AHEAD, unknown=frozenset("z")), phase=Phase.READY),
        ("Deploy the release that contains z",),
        "Database ahead",
        ("./migrate.sh check",),
    ),
    "diverged": (
        in_schema(SchemaState.DIVERGED, unknown=frozenset("z")),
        ("contains z, or correct DATABASE_URL",),
        "Database ahead",
        ("./migrate.sh check",),
    ),
    "unversioned": (
        in_schema(SchemaState.UNVERSIONED),
        ("declare the revision REV",),
        "Tables without a revision",
        ("./migrate.sh stamp REV", *MIGRATE),
    ),
    "dirty": (
        in_schema(SchemaState.DIRTY, half_applied=(HALF,)),
        ("repair --stamp",),
        "Dirty schema",
        (
            """psql "$OWNER_URL" -c 'DROP INDEX CONCURRENTLY "ix B"'""",
            "./migrate.sh repair --rerun",
            *MIGRATE,
        ),
    ),
    "ready with an INVALID index": (
        Status(Phase.READY, invalid_indexes=("ix",)),
        ("Drop each INVALID index",),
        "INVALID indexes",
        ('psql "$OWNER_URL" -c "DROP INDEX CONCURRENTLY ix"',),
    ),
    "the revision failed": (
        failed(RevisionFailed),
        ("Correct the data",),
        "Failed migration",
        ("./migrate.sh history --limit 10", *MIGRATE),
    ),
    "failed and dirty": (
        failed(RevisionFailed, schema=replace(BEHIND, state=SchemaState.DIRTY)),
        ("half-applied",),
        "Dirty schema",
        ("./migrate.sh repair --rerun", *MIGRATE),
    ),
    "the run took too long": (
        failed(RunTimeout),
        ("Raise it",),
        "Failed migration",
        ("MIGRATION_RUN_SECONDS=3600 MIGRATION_WAIT_SECONDS=3600 ./migrate.sh upgrade",),
    ),
    "the run was blocked": (
        failed(TableLockTimeout),
        ("more time would not have helped",),
        "Stuck migration",
        ("./migrate.sh status", *MIGRATE),
    ),
    "given up": (
        failed(WaitTimeout),
        ("raise MIGRATION_WAIT_SECONDS",),
        "Waiting too long",
        ("./migrate.sh status", *MIGRATE),
    ),
    "given up while blocked": (
        failed(WaitTimeout, at_failure=LockStatus(HOLDER, blocked_by=(LUNCH,))),
        ("more time would not have helped",),
        "Stuck migration",
        ("./migrate.sh status", *MIGRATE),
    ),
    "old instances": (
        replace(WAITING, lock_status=LockStatus(blocked_by=(Blocker(7, "shop@a", lacks="b"),))),
        ("Finish the deploy of a release that contains it", "then migrates"),
        "Old instances",
        (BUILDS,),
    ),
    "given up on old instances": (
        failed(OldInstances),
        ("Finish the deploy of a release that contains the named revision", "stop the instances"),
        "Old instances",
        (BUILDS, *MIGRATE),
    ),
    "given up without the database": (
        failed(DatabaseUnreachable, reachable=False),
        ("Check that the database runs",),
        "Database unreachable",
        ("./migrate.sh status",),
    ),
    "refused": (failed(AccessRefused), ("restart it after",), "Failed migration", ("./migrate.sh doctor",)),
    "a setting is wrong": (
        Status(Phase.FAILED, error_class=ConfigurationError),
        ("restart it after",),
        "Failed migration",
        ("./migrate.sh doctor",),
    ),
}


@pytest.mark.parametrize(("status", "words", "section", "commands"), TABLE.values(), ids=TABLE)
def test_each_state_has_its_advice(
    status: Status, words: tuple[str, ...], section: str, commands: tuple[str, ...]
) -> None:
    """Each state has a text, the section of the runbook that is about it, and commands in the order to type them."""
    advice = advise(status, NOW)
    assert advice is not None
    assert [word for word in words if word not in advice.text] == []
    assert (advice.section, advice.commands) == (section, commands)


@pytest.mark.parametrize("advice", [advise(row[0], NOW) for row in TABLE.values()], ids=TABLE)
def test_the_runbook_has_the_section(advice: Advice) -> None:
    """The runbook has the section that an advice names, and the anchor is the one of its title."""
    assert advice.section in SECTIONS
    anchor = advice.section.lower().replace(" ", "-")
    assert advice.runbook == f"docs/operations.md#{anchor}"


@pytest.mark.parametrize(
    "status",
    [
        Status(Phase.READY, schema=Schema(SchemaState.AT_HEAD)),
        Status(Phase.OFF),
        Status(schema=Schema(SchemaState.AT_HEAD)),
    ],
    ids=["ready", "off", "the command at head"],
)
def test_there_is_nothing_to_do_at_head(status: Status) -> None:
    """A ready instance, an instance that checks nothing, and a command at head have no advice."""
    assert advise(status, NOW) is None


def terminating(*blockers: Blocker) -> tuple[str, list[tuple[str, str]]]:
    """Return the text about these blocking sessions, and what each command executes, with the URL that it uses."""
    advice = advise(while_held(blocked_by=blockers), NOW)
    assert advice is not None
    words = map(shlex.split, advice.commands)
    return advice.text, [(word[1], word[3]) if word[0] == "psql" else ("", " ".join(word)) for word in words]


OWN, SUPERUSER = "$OWNER_URL", "$SUPERUSER_URL"


def test_a_session_of_the_same_role_is_terminated() -> None:
    """A blocking session that this role may terminate: the command does that if it still holds the table's lock."""
    text, commands = terminating(LUNCH)
    assert "Wait until pid 77 ends its transaction, or terminate it" in text
    assert commands == [(OWN, TERMINATE)]


def test_a_session_of_another_role_needs_a_grant_first() -> None:
    """A blocking session of another role: a superuser grants the right, then this role terminates the session."""
    text, commands = terminating(replace(LUNCH, terminate_needs="GRANT pg_signal_backend TO app"))
    assert "needs a GRANT" in text
    assert commands == [(SUPERUSER, "GRANT pg_signal_backend TO app"), (OWN, TERMINATE)]


def test_a_superuser_s_session_is_terminated_by_a_superuser() -> None:
    """A blocking session of a superuser: the command is for a superuser."""
    text, commands = terminating(replace(LUNCH, terminate_needs="superuser"))
    assert "Only a superuser" in text
    assert commands == [(SUPERUSER, TERMINATE)]


def test_a_session_without_a_table_is_terminated_while_it_blocks_the_holder() -> None:
    """A blocking transaction without a table: the command terminates it only while it blocks the lock holder."""
    _, commands = terminating(replace(LUNCH, relation=None), replace(LUNCH, pid=78, relation=None))
    blocking = "unnest(pg_blocking_pids(4242)) AS blocking(pid) WHERE pid IN (77, 78)"
    assert commands == [(OWN, f"SELECT pg_terminate_backend(pid) FROM {blocking}")]


def test_a_prepared_transaction_is_named_by_doctor() -> None:
    """A prepared transaction, which has no session, is not terminated: `doctor` names it."""
    text, commands = terminating(Blocker(0, relation="accounts"))
    assert "ROLLBACK PREPARED" in text
    assert commands == [("", "./migrate.sh doctor")]


@pytest.mark.parametrize("name", ["it's", '"My Table"', "$(reboot)", "`reboot`", "a; DROP TABLE b", "a\\'b"])
def test_a_hostile_name_of_a_table_stays_one_value(name: str) -> None:
    """A table's name is one value of the SQL, which is one word of the shell."""
    _, ((_, sql),) = terminating(replace(LUNCH, relation=name))
    literal = name.replace("'", "''")
    assert f"relation IN ('{literal}'::regclass)" in sql


def test_names_that_other_roles_choose_are_in_no_command() -> None:
    """Name, user and state of a blocking session, which other roles choose, are in no command."""
    evil = replace(LUNCH, application="$(evil)", user="evil", state="evil")
    _, commands = terminating(evil, replace(evil, pid=78, terminate_needs="superuser"))
    assert "evil" not in str(commands)


@pytest.mark.parametrize(("phase", "held"), [(Phase.FAILED, False), (Phase.FAILED, True), (Phase.READY, False)])
def test_no_session_is_named_that_was_not_just_seen(phase: Phase, held: bool) -> None:
    """After the end of a start, no session is named or terminated: another one may have its pid by then."""
    seen = LockStatus(HOLDER, blocked_by=(LUNCH,))
    for error in (WaitTimeout, TableLockTimeout, RevisionFailed, None):
        advice = advise(Status(phase, schema=BEHIND, error_class=error, at_failure=seen, held=held), NOW)
        assert "77" not in str(advice)
        assert "pg_terminate_backend" not in str(advice)


def test_a_held_instance_that_looked_again_names_the_blocking_session() -> None:
    """A held instance that sees another run blocked now names the session, and says that it recovers by itself."""
    status = failed(WaitTimeout, held=True, lock_status=LockStatus(HOLDER, blocked_by=(LUNCH,)))
    advice = advise(status, NOW)
    assert advice is not None
    assert "pid 77" in advice.text
    assert advice.text.endswith("This instance becomes ready by itself once the database is at head.")


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("error", [RevisionFailed, AlreadyFailed, HoldLost, SchemaRefused, NoConnectionLeft])
def test_only_a_held_instance_recovers_by_itself(error: type[MigrationError], held: bool) -> None:
    """The advice of a failed instance says that it becomes ready by itself if it is held, and only then."""
    advice = advise(failed(error, held=held), NOW)
    assert advice is not None
    assert ("becomes ready by itself" in advice.text) is held
