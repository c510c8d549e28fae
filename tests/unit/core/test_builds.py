"""Sessions are named after builds, and those whose build lacks what a contract revision requires are recognised."""

import pytest

from api.migrations.core.builds import NamedSessions, heads_in, name_of, outdated, refusal
from api.migrations.core.schema import CodeRevisions

LINE = {"a": frozenset[str](), "b": frozenset({"a"}), "c": frozenset({"b"}), "d": frozenset({"c"})}
CODE = CodeRevisions(LINE, frozenset({"d"}), contracts={"d": "b"})
LINEAGE = {"a": frozenset[str](), "x": frozenset({"a"}), "y": frozenset({"b"})}
"""What the history recorded: `x` and `y` are of builds that this one does not contain."""


def connected(*applications: str) -> list[NamedSessions]:
    """Return three sessions of each application."""
    return [NamedSessions(name, "app", 7, 3) for name in applications]


@pytest.mark.parametrize(
    ("service", "heads", "name"),
    [
        ("ledger", {"097ced08409f"}, "ledger@097ced08409f"),
        ("ledger", {"b", "a"}, "ledger@a,b"),
        ("ledger", set(), "ledger@base"),
        ("s" * 80, {"097ced08409f"}, "s" * 50 + "@097ced08409f"),
        ("é" * 40, {"097ced08409f"}, "é" * 25 + "@097ced08409f"),
    ],
)
def test_a_name_has_the_service_and_the_heads(service: str, heads: set[str], name: str) -> None:
    """A name fits into 63 bytes because the service is cut, never the heads; they are read back from it."""
    assert name_of(service, heads) == name
    assert len(name.encode()) <= 63
    assert heads_in(name) == (heads or {"base"})


@pytest.mark.parametrize("application", ["ledger", "@a", "ledger@", ""])
def test_another_name_has_no_heads(application: str) -> None:
    """The name of a session that is not `service@head` has no heads."""
    assert heads_in(application) == frozenset()


@pytest.mark.parametrize(
    ("application", "lacks"),
    [
        ("ledger@a", "b"),
        ("ledger@b", None),
        ("ledger@c", None),
        ("ledger@d", None),
        ("ledger@a,b", None),
        ("ledger@base", "b"),
        ("ledger@x", "b"),
        ("ledger@y", None),
        ("ledger@a,unknown", "b"),
        ("ledger@unknown", None),
        ("ledger@" + "unknown," * 7, "b"),
        ("some@one@a", "b"),
        ("ledger", None),
        ("ledger@", None),
    ],
)
def test_a_build_is_outdated_unless_it_contains_what_the_contract_requires(application: str, lacks: str | None) -> None:
    """A head of this build, or one that the history knows, is followed to its ancestors; others count only if cut."""
    found = outdated(connected(application), ["d"], CODE, LINEAGE)
    assert [(one.application, one.lacks, one.sessions) for one in found] == ([(application, lacks, 3)] if lacks else [])


def test_the_refusal_names_builds_sessions_and_remedy() -> None:
    """The message has the revision, what the builds lack, each build with its number of sessions, and what to do."""
    blockers = outdated(connected("ledger@a", "ledger@x", "ledger@d"), ["d"], CODE, LINEAGE)
    error = refusal(blockers, ["d"], CODE)
    assert str(error) == (
        "revision d drops what older builds need, and instances of builds without b are connected: "
        "ledger@a (3 sessions, such as pid 7); ledger@x (3 sessions, such as pid 7). "
        "To fix: finish the deploy of a release that contains it, or stop those instances"
    )
    assert (error.blockers, error.exit_code) == (blockers, 4)
