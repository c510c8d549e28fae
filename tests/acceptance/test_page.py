"""The status page in a real browser, on a phone and on a desktop, while another session blocks a fleet."""

import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from api.migrations.core.status import Blocker
from api.migrations.web.status_page.page import render
from tests.acceptance.browser import Chromium
from tests.support import evidence, project
from tests.support.fakes import in_the_way
from tests.support.fleet import Instance, fleet, roles, until_all_ready, until_one_migrates
from tests.support.statuses import NOW, STATES, STATUS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

NAME = "nightly-report"
PATH = "/health/migrations"
PHONE, DESK = (360, 740), (780, 1530)
LONG = "a_name_of_sixty_three_characters_which_nothing_allows_to_break_"

SCREENS = [("light", (780, 900), False), ("dark", (780, 900), True), ("phone", PHONE, False)]
LONGEST = replace(
    STATUS,
    instance=LONG,
    message=LONG,
    invalid_indexes=(LONG,),
    schema=replace(STATUS.schema, heads=frozenset({LONG}), pending=("c", LONG)),
    lock_status=replace(
        STATUS.lock_status,
        blocked_by=(Blocker(77, LONG, LONG, "idle in transaction", 1.0, LONG, "AccessExclusiveLock"),),
        grant=f"GRANT pg_read_all_stats TO {LONG}",
    ),
)
"""The longest possible names."""


def size(png: Path) -> tuple[int, int]:
    """Return width and height from the file's first chunk."""
    width, height = struct.unpack(">II", png.read_bytes()[16:24])
    return width, height


def blocked(instance: Instance) -> bool:
    """Return whether the instance knows the blocking session."""
    return bool(instance.health().get("blocked_by"))


@pytest.fixture(scope="module")
def chromium() -> Chromium:
    """Return the browser, if this machine has one."""
    return Chromium()


async def test_the_page_shows_what_blocks_the_fleet(ledger_url: str, tmp_path: Path, chromium: Chromium) -> None:
    """The page names blocking session, lock holder and waiters; the browser logs no error and loads nothing else."""
    ini = project.make_history(tmp_path, project.contended("blocked"), project.quick("after"))
    async with in_the_way(ledger_url, "SELECT count(*) FROM accounts", NAME) as blocker:
        with fleet(3, ledger_url, ini=ini, MIGRATION_LOCK_TIMEOUT_SECONDS="0") as instances:
            migrator = until_one_migrates(instances)
            wait_until(lambda: len(roles(migrator)) == 3 and blocked(migrator), "all of it", seconds=60)
            url = migrator.url(PATH)
            visit = chromium.visit(url)
            for words in (
                "The migration is blocked",
                "Blocked by",
                NAME,
                f"pid {blocker.get_server_pid()}",
                "0 of 2 applied",
            ):
                assert words in visit.dom, words
            for words in ("AccessExclusiveLock on accounts", "ALTER TABLE", *(one.name for one in instances)):
                assert words in visit.dom, words
            assert (visit.console, visit.asked) == ([], {url})
            phone = chromium.screenshot(url, tmp_path / "phone.png", *PHONE)
            desk = chromium.screenshot(url, tmp_path / "desk.png", *DESK, dark=True)
            assert (size(phone), size(desk)) == (PHONE, DESK)
            await blocker.close()
            until_all_ready(instances)
            ready = chromium.visit(url)
            assert (ready.console, "Last run" in ready.dom, "Blocked by" in ready.dom) == ([], True, False)
            assert len(re.findall(r"✓ [0-9.]+ s<", ready.dom)) == 2
            assert "History" in ready.dom
            waited = next(instance for instance in instances if instance is not migrator)
            assert f"UTC, {migrator.name}" in re.sub(r"UTC, [0-9.]+ s, ", "UTC, ", chromium.visit(waited.url(PATH)).dom)
    assert evidence.marks(ledger_url) == ["after", "blocked"]


def test_the_page_fits_a_phone_and_says_what_to_do_without_scrolling(chromium: Chromium, tmp_path: Path) -> None:
    """In each of ten states, light, dark and on a phone, no text is cut off, and each command is on the first screen.

    SCREENSHOTS names a folder for the pictures: to look at them, or to renew those of the runbook.
    """
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    with chromium.tab() as tab:
        for name, status in STATES.items():
            page = render(status, NOW)
            for screen, (width, height), dark in SCREENS:
                found = tab.load(page, width, height, dark=dark)
                tab.draw(folder / f"{name}-{screen}.png")
                seen = (name, screen, found)
                assert (found["width"], found["clipped"]) == (width, []), seen
                assert found["background"] == ("rgb(19, 21, 24)" if dark else "rgb(245, 245, 242)"), seen
                assert bool(found["commands"]) is (name != "ready"), seen
                assert all(bottom <= height for bottom in found["commands"]), seen
        found = tab.load(render(LONGEST, NOW), *PHONE)
        assert (found["width"], found["clipped"]) == (PHONE[0], [])
