"""What differs between this project and the usual recipe: the application, its history, and the commands."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.laboratory import ROOT, Laboratory, bare_upgrade, our_upgrade
from bench.process import run
from bench.projects import INI, TEMPLATE_ENV
from bench.rollout.instance import Instance
from devtools.releases import HEADS, release_tree

DRAIN = {"MIGRATION_DRAIN_SECONDS": "1"}
"""Twice as long as haproxy needs to notice that an instance drains."""
OPERATOR = "operator"
"""The name of the commands that no instance runs."""
RECIPE_REVISIONS = Path(__file__).resolve().parent / "recipe_revisions"


@dataclass(frozen=True)
class Variant:
    """A way to migrate, and the trees of the releases that do it that way.

    Attributes:
        name: for the report.
        app: the application in the words of uvicorn.
        upgrade, downgrade: commands to run in a tree; the target of `downgrade` is the last word.
        settings: variables of each process.
        trees: the folders of the releases by their numbers.
        writes_history: whether the table of this project's history says which instance migrated.
    """

    name: str
    app: str
    upgrade: list[str]
    downgrade: list[str]
    settings: Mapping[str, str]
    trees: Mapping[int, Path]
    writes_history: bool

    @property
    def contracts(self) -> bool:
        """Whether there is a release that drops what release 1 needs, and waits for its instances."""
        return 3 in self.trees

    def start(self, lab: Laboratory, url: str, release: int, name: str, port: int) -> Instance:
        """Start an instance of a release."""
        environment = self.environment(lab, url, release, name)
        return Instance(name, self.app, port, environment, self.trees[release])

    def environment(self, lab: Laboratory, url: str, release: int, name: str) -> dict[str, str]:
        """Return the environment of a process of a release: `api` is that of its tree, `bench` is here."""
        tree = self.trees[release]
        own = {**self.settings, "MIGRATION_INSTANCE": name, "MIGRATION_RELEASE": str(release)}
        return lab.environment(url, tree / "alembic.ini", PYTHONPATH=f"{tree}:{ROOT}", **own)

    def migrate(self, lab: Laboratory, url: str) -> None:
        """Create the schema of release 1."""
        run(self.upgrade, self.environment(lab, url, 1, OPERATOR), self.trees[1])


def ours(folder: Path, releases: Sequence[int] = (1, 2, 3)) -> Variant:
    """Return this project: all settings but the drain have their defaults. Release 3 drops what release 1 needs."""
    downgrade = [sys.executable, "-m", "api.migrations", "downgrade", "--yes", HEADS[1]]
    trees = {number: release_tree(number, folder / f"ours-{number}") for number in releases}
    return Variant("this project", "api.main:app", our_upgrade(), downgrade, DRAIN, trees, writes_history=True)


def recipe(folder: Path) -> Variant:
    """Return the recipe: the same ledger, and a revision as it is written without thinking of locks."""
    trees = {number: release_tree(number, folder / f"recipe-{number}") for number in (1, 2)}
    for number, tree in trees.items():
        _write_history(tree, trees[1], RECIPE_REVISIONS if number > 1 else None)
    downgrade = [sys.executable, "-m", "alembic", "downgrade", HEADS[1]]
    return Variant("the recipe", "bench.rollout.recipe:app", bare_upgrade(), downgrade, {}, trees, writes_history=False)


def _write_history(tree: Path, first: Path, added: Path | None) -> None:
    """Give a tree the revisions of release 1 and of `added`, and Alembic's own env.py: one transaction for all."""
    (tree / "alembic" / "env.py").write_text(TEMPLATE_ENV.replace(", transaction_per_migration=True", ""))
    (tree / "alembic.ini").write_text(INI.replace("%(here)s", "%(here)s/alembic"))
    versions = tree / "alembic" / "versions"
    if added:
        shutil.rmtree(versions)
        shutil.copytree(first / "alembic" / "versions", versions)
        shutil.copytree(added, versions, dirs_exist_ok=True)
