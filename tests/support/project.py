"""Histories to migrate: a copy of the project's own, with further revisions on top of its head.

Each revision here leaves a row in the table `marks`: two rows mean that it was applied twice.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

from alembic.config import Config
from alembic.script import ScriptDirectory

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ROOT / "alembic.ini"
"""The project's own history, unchanged."""

INI = """\
[alembic]
script_location = {folder}/alembic
prepend_sys_path = {root}
path_separator = os
"""

SOURCE = '''\
"""{doc}.

Revision ID: {id}
Revises: {below}
"""

import time

import sqlalchemy as sa

from alembic import op

revision = "{id}"
down_revision = "{below}"
branch_labels = None
depends_on = None
{header}

def mark():
    op.execute("CREATE TABLE IF NOT EXISTS marks (revision text)")
    op.execute("INSERT INTO marks VALUES ('{id}')")


def upgrade():
{upgrade}


def downgrade():
    op.execute("DELETE FROM marks WHERE revision = '{id}'")
'''


@dataclass(frozen=True)
class Revision:
    """A revision to put on top: its id (readable, at most 32 characters) and the body of its `upgrade()`."""

    id: str
    upgrade: str
    doc: str = "Made by a test"
    header: str = ""

    def source(self, below: str) -> str:
        """Return the text of its file; `below` is the revision before it."""
        body = indent(dedent(self.upgrade).strip(), "    ")
        return SOURCE.format(doc=self.doc, id=self.id, below=below, header=self.header, upgrade=body)


def head(ini: Path = PLAIN) -> str:
    """Return the only head of a history."""
    found = ScriptDirectory.from_config(Config(ini)).get_current_head()
    assert found, f"{ini} has no revisions"
    return found


def revisions(ini: Path = PLAIN) -> list[str]:
    """Return every revision of a history, oldest first."""
    return [script.revision for script in ScriptDirectory.from_config(Config(ini)).walk_revisions()][::-1]


def make_history(folder: Path, *extra: Revision) -> Path:
    """Copy the project's history into `folder` and put `extra` on top, in their order; return its alembic.ini."""
    shutil.copytree(PLAIN.parent / "alembic", folder / "alembic", ignore=shutil.ignore_patterns("__pycache__"))
    ini = folder / "alembic.ini"
    ini.write_text(INI.format(folder=folder, root=ROOT))
    below = head(ini)
    for each in extra:
        revision_file(ini, each).write_text(each.source(below))
        below = each.id
    return ini


def revision_file(ini: Path, revision: Revision) -> Path:
    """Return the path of `revision` in the history of `ini`."""
    return ini.parent / "alembic" / "versions" / f"2030_01_01_{revision.id}.py"


def quick(id: str = "quick") -> Revision:
    """Make a revision that leaves its mark and ends."""
    return Revision(id, "mark()")


def slow(id: str = "slow", seconds: float = 2.5) -> Revision:
    """Make a revision of one long statement, in its transaction."""
    return Revision(id, f'mark()\nop.execute("SELECT pg_sleep({seconds})")')


GATE = "sa.text(\"SELECT count(*) FROM pg_class WHERE relname = 'let_go'\")"
WAIT_FOR_THE_TEST = f"""\
while not op.get_bind().scalar({GATE}):
    op.execute("SELECT pg_sleep(0.05)")
"""


def held(id: str = "held") -> Revision:
    """Make a revision that continues only after `evidence.let_go`, however slow the machine is."""
    return Revision(id, "mark()\n" + WAIT_FOR_THE_TEST)


def contended(id: str = "contended", pause_seconds: float | None = None) -> Revision:
    """Make a revision that needs a table lock; `pause_seconds` replaces the random pause between two attempts.

    Its attempts then last 2 s each: on a busy machine the blocking session is not seen in the first one's 0.3 s.
    """
    ladder = "from api.migrations.execution.lock_retry import LockTimeouts\n"
    pause = f"{ladder}LockTimeouts.delay = lambda timeouts, attempt: {pause_seconds}\n"
    pause += "LockTimeouts.timeout_for = lambda timeouts, attempt: 2.0\n"
    body = 'mark()\nop.execute("ALTER TABLE accounts ADD COLUMN note text")'
    return Revision(id, (pause if pause_seconds else "") + body)


def concurrent_index(id: str = "concurrent", table: str = "marks", on: str = "(1)") -> Revision:
    """Make a revision that is one `CREATE INDEX CONCURRENTLY` on an expression and can run again."""
    name = f"ix_{id}"
    body = f"""
        with op.get_context().autocommit_block():
            op.execute("DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute("CREATE INDEX CONCURRENTLY {name} ON {table} ({on})")
    """
    return Revision(id, body, header="idempotent = True")


def failing(id: str = "failing") -> Revision:
    """Make a revision that fails in the server, which quotes a value that no output may contain."""
    return Revision(id, "mark()\nop.execute(\"SELECT 'secret-word'::integer\")")


def sleeper(id: str = "sleeper", seconds: float = 60) -> Revision:
    """Make a revision that sleeps in Python, in small steps, with its transaction open."""
    body = f"""
        mark()
        for _ in range({round(seconds / 0.05)}):
            time.sleep(0.05)
    """
    return Revision(id, body)


def half_applied(id: str = "half", then: str = WAIT_FOR_THE_TEST) -> Revision:
    """Make a revision that commits its mark outside a transaction, and that `then` keeps from finishing."""
    body = "with op.get_context().autocommit_block():\n" + indent("mark()\n" + then, "    ")
    return Revision(id, body)
