"""The installed endpoints show the current start's status, without the texts of exceptions unless a setting says so."""

import httpx
import pytest
from starlette.applications import Starlette

from api.migrations.core.status import LastRun, Phase, Tracker
from api.migrations.errors import foreign
from api.migrations.settings import MigrationSettings
from api.migrations.web.install import install

CUSTOMER = "Anna Muster"
FAILED = f"revision b failed: ValueError: {foreign(CUSTOMER)}, at b.py:3"
PUBLIC = "revision b failed: ValueError: the text is in the log, at b.py:3"


async def answers(*starts: MigrationSettings) -> list[httpx.Response]:
    """Start an application with each of the settings in turn; return what it answers about the last, failed start."""
    app = Starlette()
    for settings in starts:
        run = LastRun("failed", "api-1", error=FAILED)
        install(app, Tracker(phase=Phase.FAILED, message=FAILED, last_run=run), settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        asked = [("/health/ready", "*/*"), ("/health/migrations", "*/*"), ("/health/migrations", "text/html")]
        return [await client.get(path, headers={"Accept": accept}) for path, accept in asked]


def settings(*, show_errors: bool) -> MigrationSettings:
    """Return settings without an environment."""
    return MigrationSettings.load(_env_file=None, show_errors=show_errors)


async def test_the_text_of_an_exception_is_not_shown() -> None:
    """The failed start is shown by class and place of the exception, in JSON and on the page; its text is nowhere."""
    ready, body, page = await answers(settings(show_errors=False))
    assert (ready.json()["message"], body.json()["message"], body.json()["last_run"]["error"]) == (PUBLIC,) * 3
    assert page.text.count(PUBLIC) == 2
    assert CUSTOMER not in ready.text + body.text + page.text


@pytest.mark.parametrize("before", [[], [settings(show_errors=False)]], ids=["first start", "second start"])
async def test_a_setting_shows_the_text_of_an_exception(before: list[MigrationSettings]) -> None:
    """With MIGRATION_SHOW_ERRORS=true the same places have the text, also in an application that is started again."""
    for answer in await answers(*before, settings(show_errors=True)):
        assert f"ValueError: {CUSTOMER}, at b.py:3" in answer.text
        assert answer.text.replace("\n", "").isprintable()
