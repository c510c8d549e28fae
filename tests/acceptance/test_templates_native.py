"""The env.py of Alembic's own templates works untouched on SQLite and MariaDB, on the connection that it opens."""

import signal
from pathlib import Path
from textwrap import indent

import pytest

from tests.acceptance import portable
from tests.acceptance.shop import REVISION, fresh_project, shops
from tests.acceptance.test_native import ON_SECONDS
from tests.support.fleet import MARK, until_all_ready, until_one_migrates, until_phase
from tests.support.places import Place, applied, outcomes, versions

pytestmark = pytest.mark.acceptance

POLL = {"MIGRATION_POLL_SECONDS": "0.3"}
OWN = [
    ("sqlite", "generic", "sqlite"),
    ("sqlite", "async", "sqlite+aiosqlite"),
    ("mariadb", "async", "mysql+asyncmy"),
]


def untouched(folder: Path, template: str, driver: str, place: Place) -> Path:
    """Create a project with the template's env.py and the URL in its alembic.ini.

    Its second revision waits: on MariaDB in a statement, which continues without its client.
    """
    project = fresh_project(folder, template)
    ini = project / "alembic.ini"
    own = place.url.replace(place.url.partition(":")[0], driver, 1).replace("%", "%%")
    ini.write_text(ini.read_text().replace("driver://user:pass@localhost/dbname", own))
    held = portable.held("one") if place.kind == "sqlite" else portable.in_statement(place, "one", seconds=ON_SECONDS)
    body = portable.IMPORTS + "import time\n" + held.upgrade.replace("marks", "things")
    text = REVISION.format(id="second", below="first", body=indent(body, "    "))
    (project / "alembic" / "versions" / "second.py").write_text(text)
    return project


@pytest.mark.parametrize(("place", "template", "driver"), OWN, indirect=["place"])
def test_a_waiter_takes_over_with_an_untouched_template(
    place: Place, tmp_path: Path, template: str, driver: str
) -> None:
    """Three instances start, and the one that migrates is killed in its revision: a waiter repeats it, once."""
    project = untouched(tmp_path, template, driver, place)
    ini = project / "alembic.ini"
    with shops(3, place.url, project, **place.settings, **POLL) as three:
        holder = until_one_migrates(three)
        portable.until_reached(ini)
        portable.until_in_statement(place)
        others = [shop for shop in three if shop is not holder]
        until_phase(others, "waiting")
        assert (place.lock_is_free(), place.writers()) == (False, 1)
        holder.kill(signal.SIGKILL)
        holder.wait()
        portable.let_go(ini)
        until_all_ready(others)
        # the new holder may have to repeat its run until the statement of the killed one has ended
        assert [MARK in shop.log() for shop in others].count(True) == 1
    assert outcomes(place, "second") == ["interrupted", "applied"]
    assert (applied(place), versions(place)) == (["first", "second"], ["second"])
    assert place.rows("SELECT name FROM things") == [["one"]]
    assert place.lock_is_free()
    with shops(1, place.url, project, **place.settings) as (one,):
        until_all_ready([one])
        assert MARK not in one.log()
