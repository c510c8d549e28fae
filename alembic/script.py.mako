"""${message[:1].upper()}${message[1:].rstrip(".")}.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision: str = ${repr(up_revision)}
down_revision: ${"str | None" if down_revision is None or isinstance(down_revision, str) else "tuple[str, ...]"} = ${repr(down_revision)}
branch_labels: ${"str | None" if not isinstance(branch_labels, (list, tuple)) else "tuple[str, ...]"} = ${repr(branch_labels)}
depends_on: ${"str | None" if not isinstance(depends_on, (list, tuple)) else "tuple[str, ...]"} = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
