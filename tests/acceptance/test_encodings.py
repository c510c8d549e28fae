"""Instances on a LATIN1 database have names, and a failing revision, with letters that LATIN1 cannot encode."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acceptance import holders
from tests.conftest import fresh_name
from tests.support import evidence, project
from tests.support.fleet import MARK, fleet, until_phase
from tests.support.servers import Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

FAILING = replace(project.failing(), doc="Добавить счета …")


def test_a_failure_with_letters_outside_latin1_is_recorded_once(server: Server, tmp_path: Path) -> None:
    """A revision with Cyrillic text fails on a LATIN1 database: both waiters read why and do not run it again."""
    ini = project.make_history(tmp_path, project.held(), FAILING)
    with server.database(fresh_name(), encoding="LATIN1") as url, ExitStack() as stack:
        names = [f"узел-{number} 😀" for number in (1, 2, 3)]
        own = {"MIGRATION_ON_FAILURE": "hold", "MIGRATION_RELEASE": "выпуск", "MIGRATION_SHOW_ERRORS": "true"}
        starting = [fleet(1, url, ini=ini, first=n, MIGRATION_INSTANCE=name, **own) for n, name in enumerate(names)]
        instances = [stack.enter_context(each)[0] for each in starting]
        wait_until(lambda: holders.all_see_the_held_one(instances), "instances that see the held revision", seconds=60)
        holder = instances[0].health()["lock"]["holder"]["instance"]
        assert any(name.startswith(holder) for name in names), holder
        evidence.let_go(url)
        until_phase(instances, "failed")
        messages = [instance.health()["message"] for instance in instances]
        assert sum(instance.log().count(MARK) for instance in instances) == 1
        assert evidence.outcomes(url, "failing") == ["failed"]
        assert evidence.running(url) == []
        assert (evidence.versions(url), evidence.marks(url)) == (["held"], ["held"])
    assert all('invalid input syntax for type integer: "' in message for message in messages), messages
    assert "secret-word" not in "".join(messages)
    assert all("Добавить счета ... failed and was rolled back" in message.replace("…", "...") for message in messages)
    assert sum("(on instance узел-" in message and "while this instance waited" in message for message in messages) == 2
