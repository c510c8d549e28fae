"""Lets commands in another terminal find the embedded database of a running `./dev up`.

`./migrate.sh` starts this module, and `alembic/env.py` calls it. It needs only what the service needs.
"""

import fcntl
import os
import sys
from pathlib import Path

from api.migrations.settings import MigrationSettings

NOTE = Path(__file__).resolve().parent.parent / ".data" / "database-url"
"""The file with the URL; `./dev up` holds a lock on it while the database runs."""


def url_of_dev_up(note: Path) -> str | None:
    """Return the URL in `note`, or None if `./dev up` does not run, even if it left the file."""
    try:
        with note.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return note.read_text() or None
    except OSError:
        pass
    return None


def use_database_of_dev_up(note: Path = NOTE) -> None:
    """Set DATABASE_URL to the database of a running `./dev up` and say so, unless a URL is set, also in `.env`."""
    url = url_of_dev_up(note)
    urls = ("database_url", "database_url_file", "migration_database_url", "migration_database_url_file")
    if url is not None and not MigrationSettings.load_partial(*urls).has_url:
        os.environ["DATABASE_URL"] = url
        print("DATABASE_URL is not set: using the database of ./dev up", file=sys.stderr)


if __name__ == "__main__":
    from api.migrations.cli.main import main  # not for env.py, which instances execute

    use_database_of_dev_up()
    sys.exit(main())
