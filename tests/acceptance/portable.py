"""Revisions that MariaDB and SQLite can run as well, on top of the project's own history.

`make_history` puts `ground` below the others: it makes the table `marks`, so that they need no DDL, which MariaDB
cannot roll back. Files in the history's folder hold them, because a test cannot write to a SQLite database in which
a revision runs.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import project
from tests.support.places import MariaDBPlace, Place, SqlitePlace
from tests.support.project import Revision
from tests.support.waiting import wait_until

GROUND = project.quick("ground")
IMPORTS = "import os\nfrom pathlib import Path\nHERE = Path(__file__).parents[2]\n"
HELD = """\
(HERE / "reached").write_text(os.environ.get("MIGRATION_INSTANCE", "somebody"))
while not (HERE / "let_go").exists():
    op.execute("SELECT 1")
    time.sleep(0.05)
"""
FOR_EVER = {
    "mariadb": "INSERT INTO marks SELECT concat('after ', SLEEP({seconds}))",
    "mysql": "INSERT INTO marks SELECT concat('after ', SLEEP({seconds}))",
    "postgresql": "SELECT pg_sleep({seconds})",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
}


def make_history(folder: Path, *extra: Revision) -> Path:
    """Make the history of `project.make_history`, with `ground` below the others."""
    return project.make_history(folder, GROUND, *extra)


def noted(id: str = "noted", then: str = "", header: str = "") -> Revision:
    """Make a revision that leaves its mark without any DDL, and then does `then`."""
    return Revision(id, f"op.execute(\"INSERT INTO marks VALUES ('{id}')\")\n{then}", header=IMPORTS + header)


def held(id: str = "held", header: str = "") -> Revision:
    """Make a revision that leaves its mark and runs statement after statement until `let_go`."""
    return noted(id, HELD, header)


def in_statement(place: Place, id: str = "one_statement", seconds: int = 300) -> Revision:
    """Make a revision that leaves its mark and runs one long statement, unless `let_go` came before it.

    `seconds` is for MariaDB, where a statement continues when its client is gone; on SQLite it has no end.
    """
    sql = FOR_EVER[place.kind].format(seconds=seconds)
    then = f"""\
if not (HERE / "let_go").exists():
    (HERE / "reached").touch()
    op.execute({sql!r})
"""
    return noted(id, then)


def with_ddl(id: str = "with_ddl", header: str = "", table: str = "IF NOT EXISTS half") -> Revision:
    """Make a revision that creates a table, leaves its mark, and is held."""
    body = f"op.execute('CREATE TABLE {table} (n integer)')\n"
    return Revision(id, body + held(id).upgrade, header=IMPORTS + header)


def until_reached(ini: Path) -> str:
    """Wait until a revision is held; return the name of its instance, if that is known."""
    mark = ini.parent / "reached"
    wait_until(mark.exists, "the place where it is held", seconds=60)
    return mark.read_text()


def until_in_statement(place: Place) -> None:
    """Wait until the server executes the long statement; SQLite has no server to ask."""
    if isinstance(place, MariaDBPlace):
        wait_until(lambda: any("SLEEP" in sql for _, sql in place.sessions()), "the long statement")


def let_go(ini: Path) -> None:
    """Let the held revision continue."""
    (ini.parent / "let_go").touch()


@contextmanager
def another_session_blocks(place: Place, table: str = "marks") -> Iterator[None]:
    """Hold a lock in another session: on SQLite on the whole file, elsewhere on `table`."""
    if isinstance(place, SqlitePlace):
        other = sqlite3.connect(place.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.close()
        return
    assert isinstance(place, MariaDBPlace)
    with place.server.holding(f"LOCK TABLES {table} READ", database=place.database):
        yield
