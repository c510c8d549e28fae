"""`check --for-rollback`: whether an older release may run on the schema as it is, from marks, rules and history."""

import argparse
import shutil
from pathlib import Path
from typing import Any

import pytest

from api.migrations.cli import commands
from api.migrations.cli.results import Result
from api.migrations.cli.rollback import RollbackReport
from api.migrations.core.protocols import MigrationRequest
from api.migrations.errors import (
    DatabaseUnreachable,
    MigrationError,
    NotAtHead,
    RevisionFailed,
    SchemaRefused,
    UnknownRevision,
)
from devtools.ports import free_port
from tests.support.fakes import assembled, revision, tree
from tests.support.servers import fetch

CREATE = 'op.execute("CREATE TABLE accounts (id int, name text)")'
ADD = 'op.execute("ALTER TABLE accounts ADD COLUMN title text")'
OTHER = 'op.execute("CREATE TABLE notes (id int)")'
DROP = 'op.execute("ALTER TABLE accounts DROP COLUMN name")'
RENAME = 'op.execute("ALTER TABLE accounts RENAME COLUMN title TO label")'
CHECK = 'op.execute("ALTER TABLE accounts ADD CONSTRAINT ck CHECK (id > 0) NOT VALID")'
RELEASES = {"v1": "r1", "v2": "r3", "v3": "r4"}
"""The head of each release."""


def history(folder: Path) -> Path:
    """Write a table, an expand and an unmarked revision, a contract that requires the expand, and two unmarked ones."""
    ini = tree(folder, CREATE)
    revision(folder, "r2", ADD, after="r1", extra='phase = "expand"\n')
    revision(folder, "r3", OTHER, after="r2")
    revision(folder, "r4", DROP, after="r3", extra='phase = "contract"\nrequires = "r2"\n')
    revision(folder, "r5", RENAME, after="r4")
    revision(folder, "r6", CHECK, after="r5")
    return ini


async def upgrade(url: str, ini: Path, target: str, release: str) -> None:
    """Migrate to `target` as the release of that name."""
    request = MigrationRequest("upgrade", target)
    await assembled(url, ini, release=release).operator_coordinator().execute(request)


@pytest.fixture
async def released(database_url: str, tmp_path: Path) -> tuple[str, Path]:
    """Return the URL of a database that three releases migrated, one after another, and the newest release's files."""
    ini = history(tmp_path)
    for release, head in RELEASES.items():
        await upgrade(database_url, ini, head, release)
    return database_url, ini


async def check(url: str, ini: Path, name: str) -> Result:
    """Run the command `check --for-rollback NAME`."""
    return await commands.check(assembled(url, ini), argparse.Namespace(for_rollback=name))


async def verdicts(url: str, ini: Path, name: str) -> tuple[int, dict[str, tuple[str | None, str]]]:
    """Return the exit code, and mark and verdict of each revision beyond the release."""
    report = await check(url, ini, name)
    assert isinstance(report, RollbackReport)
    return report.exit_code, {one.revision: (one.mark, str(one.verdict)) for one in report.revisions}


async def refusal(url: str, ini: Path, name: str) -> MigrationError:
    """Return the error of the command."""
    with pytest.raises(MigrationError) as refused:
        await check(url, ini, name)
    return refused.value


R2, R3, R4 = ("expand", "runs"), (None, "runs"), ("contract", "runs")


@pytest.mark.parametrize(
    ("name", "code", "judged"),
    [
        ("v3", 0, {}),
        ("r4", 0, {}),
        ("v2", 0, {"r4": R4}),
        ("r3", 0, {"r4": R4}),
        ("r2", 0, {"r3": R3, "r4": R4}),
        ("v1", 7, {"r2": R2, "r3": R3, "r4": ("contract", "fails")}),
        ("base", 7, {"r1": (None, "runs"), "r2": R2, "r3": R3, "r4": ("contract", "fails")}),
    ],
)
async def test_a_contract_fails_for_a_release_without_what_it_requires(
    released: tuple[str, Path], name: str, code: int, judged: dict[str, Any]
) -> None:
    """Each revision beyond a release, or a revision, has a verdict; the exit code is 0 if it runs after all of them."""
    assert await verdicts(*released, name) == (code, judged)


async def test_the_conclusion_names_another_release_and_a_downgrade(released: tuple[str, Path]) -> None:
    """If the release may not run, the message names one that may, and the revision to downgrade to."""
    report = await check(*released, "v1")
    assert report.message == (
        "v1 may not run on this schema: it would fail after r4. "
        "To fix: roll back to v2 instead, or run './migrate.sh downgrade r3' first, with the release that runs now"
    )
    head, *rows, _ = report.lines()
    assert head.split() == ["revision", "mark", "verdict", "why"]
    assert [row.split()[0] for row in rows] == ["r2,", "r3,", "r4,"]
    assert "it requires r2, which v1 does not contain" in rows[-1]
    document = report.as_json()
    assert (document["may_run"], document["exit_code"], document["heads"]) == (False, 7, ["r1"])


async def test_rules_judge_what_has_no_mark(released: tuple[str, Path]) -> None:
    """A rename without a mark fails by lint's rules; a new check is unknown, and also does not exit with 0."""
    url, ini = released
    await upgrade(url, ini, "r5", "v4")
    assert await verdicts(url, ini, "v3") == (7, {"r5": (None, "fails")})
    await upgrade(url, ini, "r6", "v5")
    assert await verdicts(url, ini, "v4") == (7, {"r6": (None, "unknown")})
    assert "nothing proves that it runs after r6. To fix: review" in (await check(url, ini, "v4")).message
    # v3 contains what r4 requires, but uses the column that r5 renames
    await upgrade(url, ini, "r5", "v5")
    assert "roll back to" not in (await check(url, ini, "v1")).message
    # what the release does not know may be renamed
    assert (await verdicts(url, ini, "v1"))[1]["r5"] == (None, "runs")


async def test_a_release_that_is_not_in_the_history_is_asked_for_its_revision(released: tuple[str, Path]) -> None:
    """A name that is neither a release nor a revision is refused, with the releases that the history has."""
    error = await refusal(*released, "v9")
    assert (type(error), error.exit_code) == (UnknownRevision, 2)
    assert "(newest first: v3, v2, v1)" in str(error)
    assert "To fix: pass the head of that release's revisions instead of its name" in str(error)


async def test_a_release_with_revisions_that_the_database_lacks_is_no_rollback(released: tuple[str, Path]) -> None:
    """A release that would migrate is refused with the exit code of a database that is not at head."""
    error = await refusal(*released, "r6")
    assert (type(error), error.exit_code) == (NotAtHead, 3)
    assert "contains r5, r6, which the database lacks" in str(error)


async def test_a_database_that_is_ahead_of_this_build_is_refused(released: tuple[str, Path], tmp_path: Path) -> None:
    """The files of an older build do not say what a newer revision needs: it asks for the check of the newer build."""
    url, _ = released
    error = await refusal(url, tree(tmp_path / "old", CREATE), "v1")
    assert (type(error), error.exit_code) == (SchemaRefused, 7)
    assert "To fix: run './migrate.sh check --for-rollback' with the release that contains it" in str(error)


async def test_a_half_applied_revision_is_refused(released: tuple[str, Path]) -> None:
    """A half-applied revision must be repaired first."""
    url, ini = released
    await fetch(url, "UPDATE alembic_version_history SET outcome = 'half_applied' WHERE revision = 'r4'")
    error = await refusal(url, ini, "v1")
    assert (type(error), error.exit_code, "repair --rerun" in str(error)) == (SchemaRefused, 7, True)


async def test_an_unfinished_revision_counts(released: tuple[str, Path], tmp_path: Path) -> None:
    """A part of a revision is committed: without a mark nothing may run; else the mark counts as for all of it."""
    url, _ = released
    drop = DROP.replace("COLUMN", "COLUMN IF EXISTS")
    body = f"with op.get_context().autocommit_block():\n    {drop}\nop.execute('?')"
    contract = tree(tmp_path / "contract", CREATE)
    for number in (2, 3, 4):
        revision(tmp_path / "contract", f"r{number}", OTHER, after=f"r{number - 1}", extra='phase = "expand"\n')
    unmarked = shutil.copytree(tmp_path / "contract", tmp_path / "unmarked") / contract.name
    extra = 'idempotent = True\nphase = "contract"\nrequires = "r4"\n'
    revision(tmp_path / "contract", "r5", body, after="r4", extra=extra)
    with pytest.raises(RevisionFailed, match="after it had committed a part"):
        await upgrade(url, contract, "r5", "v4")
    assert (await verdicts(url, contract, "v3")) == (0, {"r5": ("contract", "runs")})
    code, judged = await verdicts(url, contract, "v2")
    assert (code, judged["r5"]) == (7, ("contract", "fails"))
    assert "downgrade" not in (await check(url, contract, "v2")).message
    assert (await refusal(url, contract, "r5")).exit_code == 3
    revision(tmp_path / "unmarked", "r5", body, after="r4", extra="idempotent = True\n")
    error = await refusal(url, unmarked, "v3")
    assert (error.exit_code, "r5 has committed a part of its work and is not finished" in str(error)) == (7, True)


async def test_an_unreachable_database_is_not_judged(tmp_path: Path) -> None:
    """Without the database nothing is said about a release."""
    error = await refusal(f"postgresql://u@127.0.0.1:{free_port()}/nothing", history(tmp_path), "r1")
    assert (type(error), error.exit_code) == (DatabaseUnreachable, 5)


async def test_a_database_without_revisions_is_no_rollback(database_url: str, tmp_path: Path) -> None:
    """An empty database lacks every revision of a release, and tables without a revision are refused."""
    ini = history(tmp_path)
    assert (await refusal(database_url, ini, "r1")).exit_code == 3
    await fetch(database_url, "CREATE TABLE other ()")
    with pytest.raises(SchemaRefused, match="it existed before Alembic"):
        await commands.check(assembled(database_url, ini, baseline=None), argparse.Namespace(for_rollback="r1"))
