"""What `./dev bench` shows of its measurements, without measuring anything."""

from pathlib import Path

import pytest

from bench.catalogue import MEASURES, chosen
from bench.report import Section, sections_of, write
from bench.spread import MILLISECONDS, TIMES, Spread, Usage, alternating
from bench.table import Bar, Chart, Goal, Row, Table


def test_a_spread_shows_the_median_and_the_range() -> None:
    """Three values become a median with the smallest and largest, one value stands alone."""
    assert Spread.of([0.4, 0.2, 0.3]).words(MILLISECONDS) == "300 (200–400) ms"
    assert Spread.of([1.234]).words(TIMES) == "1.23×"


def test_a_percentile_is_a_measured_value() -> None:
    """Of 200 values the 99th percentile is the 198th."""
    assert Spread.of(list(range(1, 201))).percentile(99) == 198
    assert Spread.of([5.0]).percentile(99) == 5.0


def test_ratios_are_taken_within_a_pair() -> None:
    """A round in which the machine was slow for both variants does not change the ratio."""
    assert Spread.of([2.0, 20.0]).over(Spread.of([1.0, 10.0])).values == (2.0, 2.0)


def test_variants_alternate_and_a_warm_up_does_not_count() -> None:
    """The order is A B, A B, A B, and the first pair is not in the result."""
    order: list[str] = []

    def variant(name: str) -> Usage:
        order.append(name)
        return Usage(len(order))

    measured = alternating({"a": lambda: variant("a"), "b": lambda: variant("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert [usage.wall_seconds for usage in measured["a"]] == [3, 5]


def test_a_missed_goal_is_marked() -> None:
    """A row says what must be reached, and which of its goals it missed."""
    goals = [Goal.at_most(1.1, 1.3, TIMES), Goal.below("the recipe", 1.0, 2.0)]
    assert Row("CPU", ["1.30×"], goals).must_reach == "≤ 1.10×, below the recipe"
    assert Row("CPU", ["1.30×"], goals).verdict == "MISSED: ≤ 1.10×"
    assert Row("CPU", ["1.30×"], goals[:1]).verdict == "MISSED"
    assert Row("CPU", ["1.30×"], goals[1:]).verdict == "reached"
    assert Row("CPU", ["1.30×"]).verdict == ""


def test_a_run_of_one_measure_keeps_the_sections_of_the_others(tmp_path: Path) -> None:
    """The report keeps the catalogue's order, whatever was measured last, and each measure has its plot."""
    first, second = MEASURES[:2]
    table = Table(["this"], [Row("CPU", ["1 ms"])], chart=Chart("CPU", "ms", [Bar("1 < 2", "this project", 1)]))
    write(tmp_path, [Section(second, table, "today")], "a machine", "versions")
    document = write(tmp_path, [Section(first, table, "today")], "a machine", "versions")
    assert list(sections_of(document.read_text())) == [first.title, second.title]
    assert "1 &lt; 2" in (tmp_path / Section(first, table, "").plot).read_text()


def test_an_unknown_measure_is_refused_with_the_names() -> None:
    """A misspelt name does not run everything."""
    with pytest.raises(LookupError, match=f"no measure 'strat'.*{MEASURES[0].name}"):
        chosen(["strat"])
