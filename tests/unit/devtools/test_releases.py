"""The files of the ledger's earlier releases, which are made with patches."""

from pathlib import Path

import pytest

from devtools import releases
from devtools.releases import HEADS, PATCHES, ReleaseError, release_tree, save_patch
from tests.support.project import head, revisions

ALL = revisions()


@pytest.mark.parametrize("number", HEADS)
def test_a_release_has_its_own_revisions_and_code(tmp_path: Path, number: int) -> None:
    """The tree of an earlier release ends at its own head, and its ledger has the columns of that release."""
    tree = release_tree(number, tmp_path / "tree")
    assert head(tree / "alembic.ini") == HEADS[number]
    assert revisions(tree / "alembic.ini") == ALL[: ALL.index(HEADS[number]) + 1]
    models = (tree / "api" / "ledger" / "models.py").read_text()
    assert ("request_digest: " in models, "request_sha256: " in models) == (True, number > 1)
    assert "request_digest" not in (releases.PROJECT / "api" / "ledger" / "models.py").read_text()


@pytest.mark.parametrize("number", HEADS)
def test_a_patch_made_anew_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A patch made from the tree that it produces equals itself, so it has no part that another place absorbs."""
    tree = release_tree(number, tmp_path / "tree")
    written = {patch: patch.read_text() for patch in PATCHES.glob("*.patch")}
    for patch in written:
        (tmp_path / patch.name).write_text(written[patch])
    monkeypatch.setattr(releases, "PATCHES", tmp_path)
    assert save_patch(number, tree).read_text() == written[PATCHES / f"{number}.patch"]


def test_a_patch_that_does_not_apply_is_told_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code that a patch changes has changed: the error names the place and how to make the patch anew."""
    text = (PATCHES / "2.patch").read_text()
    (tmp_path / "2.patch").write_text(text.replace("     created_at: Mapped", "     created_when: Mapped"))
    monkeypatch.setattr(releases, "PATCHES", tmp_path)
    with pytest.raises(ReleaseError) as refused:
        release_tree(2, tmp_path / "tree")
    message = str(refused.value)
    assert "2.patch does not apply to: api/ledger/models.py, line " in message
    assert "To fix: python -m devtools.releases tree 2 FOLDER" in message
    assert "python -m devtools.releases save 2 FOLDER" in message
    assert "request_digest" in (tmp_path / "tree" / "api" / "ledger" / "service.py").read_text(), "the rest is applied"
