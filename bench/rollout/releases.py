"""The trees of the releases: the ledger at each release with its history, and what the recipe has instead of ours."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.laboratory import ROOT

EXPAND = '''\
"""Stand-in."""
import sqlalchemy as sa
from alembic import op
revision = {id!r}
down_revision = {below!r}
idempotent = True


def upgrade():
    {up}


def downgrade():
    {down}
'''
STEPS = [
    (
        'op.add_column("postings", sa.Column("booked_on", sa.Date(), server_default=sa.text("CURRENT_DATE")))',
        'op.drop_column("postings", "booked_on")',
    ),
    (
        """with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_a")
        op.execute("CREATE INDEX CONCURRENTLY ix_a ON postings (account_id, booked_on, amount)")""",
        """with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_a")""",
    ),
    (
        'op.add_column("accounts", sa.Column("number", sa.String(34), nullable=True))',
        'op.drop_column("accounts", "number")',
    ),
]


def release_tree(number: int, into: Path) -> Path:
    """Stand-in."""
    tree = into / f"release-{number}"
    for name in ("api", "alembic"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "alembic.ini", tree)
    below = "097ced08409f"
    for step, (up, down) in enumerate(STEPS if number > 1 else [], 1):
        id = f"{step:012x}"
        (tree / "alembic/versions" / f"2027_{id}.py").write_text(EXPAND.format(id=id, below=below, up=up, down=down))
        below = id
    return tree
