"""The tests, files and faults that the documents name exist."""

import re
from pathlib import Path

import pytest

from tests.support.project import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TESTS = {path.name for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_test_named_in_the_documents_exists(page: Path) -> None:
    """Every test that a document names exists."""
    assert set(re.findall(r"\btest_\w+\.py\b", page.read_text())) - TESTS == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    """Every link of a document to a path of the repository leads to a file."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


LATER = {56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 77, 79, 80, 81}
"""Faults that were found later, on foreign histories and servers, and that a test shows."""


def test_every_fault_has_a_row() -> None:
    """Each of the faults from 1 to 55 but 16, and each later one that is shown, has a row in the documents."""
    cells = re.findall(r"^\| (\d+(?:, \d+)*) ", (ROOT / "docs" / "reliability.md").read_text(), re.M)
    rows = [int(number) for cell in cells for number in cell.split(", ")]
    assert sorted(rows) == sorted({*range(1, 56)} - {16} | LATER)
