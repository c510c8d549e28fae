"""Whether a release runs on the schema after revisions that it does not contain: the verdicts, and the ways out."""

import pytest

from api.migrations.core.rollback import Judged, Release, Verdict, downgrade_for, judge, release_of, unmarked
from api.migrations.core.schema import CodeRevisions

RUNS, FAILS, UNKNOWN = Verdict
LINE = {"a": frozenset[str](), "b": frozenset({"a"}), "c": frozenset({"b"}), "d": frozenset({"c"})}
CODE = CodeRevisions(LINE, frozenset({"d"}), expands=frozenset({"b"}), contracts={"d": "b"})
BRANCHES = {**LINE, "x": frozenset({"a"})}
V1, V2, V3 = (release_of(name, {head}, CODE, {}) for name, head in {"v1": "a", "v2": "c", "v3": "d"}.items())


def judged(release: Release, *beyond: str, by_rules: tuple[Verdict, str] = (RUNS, "it adds")) -> list[Judged]:
    """Return the verdicts about the revisions `beyond`; the rules say the same of each unmarked one."""
    return list(judge(release, frozenset(beyond), CODE, dict.fromkeys(unmarked(CODE, beyond), by_rules)))


@pytest.mark.parametrize(
    ("release", "revision", "mark", "verdict"),
    [
        (V1, "b", "expand", RUNS),
        (V1, "c", None, RUNS),
        (V1, "d", "contract", FAILS),
        (V2, "d", "contract", RUNS),
    ],
)
def test_each_mark_has_its_verdict(release: Release, revision: str, mark: str | None, verdict: Verdict) -> None:
    """An expand is fine for each release, a contract for those with what it requires, the rules judge the others."""
    (one,) = judged(release, revision)
    assert (one.revision, one.mark, one.verdict) == (revision, mark, verdict)


def test_a_reason_names_what_is_required() -> None:
    """The reason names the required revision and the release."""
    assert judged(V1, "d")[0].why == "it requires b, which v1 does not contain"
    assert judged(V2, "d")[0].why == "v2 contains b, which it requires"


def test_what_the_rules_do_not_judge_is_unknown() -> None:
    """A revision without a mark that no rule judged is unknown."""
    assert judge(V1, frozenset({"c"}), CODE, {}) == (Judged("c", None, UNKNOWN, "it declares no phase"),)


def test_the_revisions_are_in_the_order_of_the_build() -> None:
    """The verdicts are oldest first, and only those without a phase are left to the rules."""
    assert [one.revision for one in judged(V1, "d", "b", "c")] == ["b", "c", "d"]
    assert unmarked(CODE, ["d", "c", "b", "a"]) == ("a", "c")


def test_a_release_contains_its_ancestors_also_by_the_history() -> None:
    """The ancestors of a revision that this build does not contain are known from the history."""
    assert V2.contains == {"a", "b", "c"}
    other = release_of("other", {"y"}, CODE, {"y": frozenset({"b"})})
    assert other.contains == {"a", "b", "y"}
    assert other.heads({**LINE, "y": frozenset({"b"})}) == {"y"}


@pytest.mark.parametrize(("rules", "below"), [((RUNS, ""), "c"), ((FAILS, ""), "b"), ((UNKNOWN, ""), "b")])
def test_the_way_out_is_below_the_oldest_bad_revision(rules: tuple[Verdict, str], below: str) -> None:
    """A downgrade to below it lets the release run."""
    assert downgrade_for(judged(V1, "b", "c", "d", by_rules=rules), CODE) == below


def test_there_is_no_way_out_of_what_is_good_or_in_branches() -> None:
    """Nothing bad needs no way out; bad revisions in two branches cannot be undone by one downgrade."""
    assert downgrade_for(judged(V1, "b"), CODE) is None
    code = CodeRevisions(BRANCHES, frozenset({"d", "x"}))
    bad = [Judged("x", None, FAILS, ""), Judged("d", None, FAILS, "")]
    assert downgrade_for(bad, code) is None
