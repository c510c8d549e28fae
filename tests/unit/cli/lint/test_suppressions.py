"""Comments that suppress findings."""

import pytest

from tests.unit.cli.lint.conftest import Find

DROP = 'op.drop_column("orders", "code")'


@pytest.mark.parametrize(
    "body",
    [
        f"{DROP}  # lint: ignore[drop-column] no release since 4.2 reads it",
        f"# lint: ignore[drop-column] no release since 4.2 reads it\n{DROP}",
        f"# lint: ignore[drop-table, drop-column]: no release reads it\n# another comment\n{DROP}",
        'op.drop_column(  # lint: ignore[drop-column] no release reads it\n    "orders",\n    "code",\n)',
    ],
)
def test_a_comment_with_a_reason_suppresses_a_finding(find: Find, body: str) -> None:
    """A comment on the line, or in the comments directly above, suppresses the rules that it names."""
    assert find(body) == []


@pytest.mark.parametrize(
    "body",
    [
        f"{DROP}  # lint: ignore[drop-table] no release reads it",
        f"# lint: ignore[drop-column] no release reads it\n\n{DROP}",
        f"# lint: ignore[drop-column] no release reads it\npass\n{DROP}",
        f'text = "# lint: ignore[drop-column] no release reads it"; {DROP}',
    ],
)
def test_a_comment_elsewhere_suppresses_nothing(find: Find, body: str) -> None:
    """Another rule, a comment that does not touch the line, and a string suppress nothing."""
    assert [finding.rule for finding in find(body)] == ["drop-column"]


@pytest.mark.parametrize(
    ("comment", "why", "still"),
    [
        ("# lint: ignore[drop-column]", "it gives no reason", True),
        ("# lint: ignore[drop-colum] no release reads it", "no rule has the id drop-colum", True),
        ("# lint: ignore no release reads it", "it names no rule", True),
        ("# lint: ignore[drop-column, bad-ignore, nothing] for a reason", "no rule has the id nothing", False),
    ],
)
def test_a_bad_comment_is_a_finding(find: Find, comment: str, why: str, still: bool) -> None:
    """A comment without a reason, or with an unknown rule, is a finding that no comment can suppress."""
    found = {finding.rule: finding.message for finding in find(f"{DROP}  {comment}")}
    assert why in found["bad-ignore"]
    assert ("drop-column" in found) is still
