"""What the rules find in revisions that are marked as expand or contract."""

from pathlib import Path

import pytest

from tests.support.planted_faults import BASE, Planted, write_history
from tests.unit.cli.lint.conftest import Lint

EXPAND, CONTRACT = 'phase = "expand"', 'phase = "contract"\nrequires = "tables"'
REQUIRED = 'op.execute("ALTER TABLE orders ADD COLUMN fee int NOT NULL")'


def rules(folder: Path, lint: Lint, upgrade: str, mark: str) -> list[str]:
    """Return the rules of the findings in a revision with this mark."""
    write_history(folder, BASE, Planted("one", upgrade, mark=mark))
    return [finding.rule for finding in lint("one").findings]


@pytest.mark.parametrize(
    "upgrade",
    [
        'op.drop_column("orders", "code")',
        'op.drop_table("coupons")',
        'op.alter_column("orders", "code", new_column_name="mark")',
        'op.rename_table("carts", "baskets")',
    ],
)
@pytest.mark.parametrize(("mark", "found"), [(CONTRACT, []), (EXPAND, ["expand-breaks"])])
def test_a_contract_may_remove_and_an_expand_may_not(
    folder: Path, lint: Lint, upgrade: str, mark: str, found: list[str]
) -> None:
    """A contract needs no comment for what it drops and renames; in an expand the same contradicts the mark."""
    assert rules(folder, lint, upgrade, mark) == found


@pytest.mark.parametrize(("mark", "found"), [(CONTRACT, ["required-column"]), (EXPAND, ["expand-breaks"])])
def test_no_mark_makes_a_required_column_acceptable(folder: Path, lint: Lint, mark: str, found: list[str]) -> None:
    """A required column that no older release fills is a finding with each mark."""
    assert rules(folder, lint, REQUIRED, mark) == found


@pytest.mark.parametrize("mark", [EXPAND, CONTRACT])
def test_the_other_rules_do_not_depend_on_the_mark(folder: Path, lint: Lint, mark: str) -> None:
    """A long lock is found with each mark."""
    assert rules(folder, lint, 'op.create_index("ix", "orders", ["code"])', mark) == ["index-not-concurrent"]
