"""Three revisions on top of the project's history, and the check that one instance applied everything once."""

from pathlib import Path

from tests.support import evidence, project

EXTRA = (project.slow(), project.held(), project.concurrent_index())
"""A slow revision, a held one, and an index that is built concurrently."""


def assert_applied_once(url: str, ini: Path) -> None:
    """Assert that one instance applied every revision once, and no INVALID index or lock is left."""
    assert evidence.applied(url) == project.revisions(ini)
    assert {row["outcome"] for row in evidence.history(url)} == {"applied"}
    assert len(evidence.appliers(url)) == 1
    assert evidence.versions(url) == [project.head(ini)]
    assert evidence.marks(url) == ["held", "slow"]
    assert evidence.invalid_indexes(url) == []
    assert evidence.advisory_locks(url) == 0
