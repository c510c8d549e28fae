"""The status page: its content in each state, the escaping of every text, and the requests that get it."""

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from api.migrations.core.schema import Recorded, Schema, SchemaState
from api.migrations.core.status import (
    Blocker,
    Holder,
    LastRun,
    LockStatus,
    Member,
    Phase,
    Progress,
    Retry,
    Statement,
    Status,
)
from api.migrations.text.printable import printable
from api.migrations.web.accept import prefers_html
from api.migrations.web.gate import RETRY_AFTER_SECONDS
from api.migrations.web.health import routes
from api.migrations.web.status_page import page as status_page
from api.migrations.web.status_page.page import SHOWN, render
from tests.support.page import NOW, Document, drawn
from tests.support.statuses import STATUS

EVIL = "<script>alert('1')</script>\"&\x1b[2J\u202e"
LOCK = STATUS.lock_status
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def titles(status: Status) -> set[str | None]:
    """Return the sections of the page by their first words."""
    return {section["aria-labelledby"] for section in drawn(status).all("section")}


@pytest.mark.parametrize(
    "changes",
    [
        *({name: EVIL} for name in ("instance", "release", "strategy", "dialect", "lock_key", "message")),
        {"invalid_indexes": (EVIL,)},
        {"schema": replace(STATUS.schema, revisions=frozenset({EVIL}))},
        {"schema": replace(STATUS.schema, heads=frozenset({EVIL}))},
        {"schema": replace(STATUS.schema, pending=(EVIL,))},
        {"schema": replace(STATUS.schema, pending=(EVIL,)), "progress": Progress(0, 1, EVIL)},
        {"schema": replace(STATUS.schema, pending=(EVIL, "d")), "progress": Progress(1, 2, "d")},
        {"scopes": {EVIL: Schema()}},
        {"scopes": {"schema main": Schema(revisions=frozenset({EVIL}))}},
        {"lock_status": replace(LOCK, holder=Holder(EVIL))},
        {"lock_status": replace(LOCK, holder=Holder(EVIL)), "message": None},
        {"lock_status": replace(LOCK, holder=Holder(EVIL), blocked_by=())},
        {"lock_status": replace(LOCK, holder=Holder("web-1", 1, None, EVIL))},
        {"lock_status": replace(LOCK, statement=Statement(EVIL))},
        {"lock_status": replace(LOCK, statement=Statement("ALTER", EVIL, 3.0))},
        {"lock_status": replace(LOCK, grant=EVIL)},
        {"lock_status": replace(LOCK, blocked_by=(Blocker(7, EVIL, EVIL, EVIL, 1.0, EVIL, EVIL),))},
        {"lock_status": replace(LOCK, fleet=(Member(EVIL, "waiting", 1),))},
        {"lock_status": replace(LOCK, fleet=(Member("web-1", EVIL, 1),))},
        {"last_run": LastRun(EVIL, "web-1")},
        {"last_run": LastRun("failed", EVIL)},
        {"last_run": LastRun("failed", "web-1", applied=(EVIL,))},
        {"last_run": LastRun("failed", "web-1", error=EVIL)},
        {"last_run": LastRun("failed", "web-1", failed=EVIL)},
        {"recent": (Recorded(EVIL, "upgrade", "applied", "web-1", NOW),)},
        {"recent": (Recorded("c", EVIL, "applied", "web-1", NOW),)},
        {"recent": (Recorded("c", "upgrade", EVIL, "web-1", NOW),)},
        {"recent": (Recorded("c", "upgrade", "applied", EVIL, NOW),)},
    ],
)
def test_hostile_text_stays_text_in_every_field(changes: dict[str, object]) -> None:
    """A hostile name, message or error adds no markup and no control character to the page."""
    page = render(replace(STATUS, **changes), NOW)  # type: ignore[arg-type]
    assert printable(EVIL) in Document(page).text
    assert "<script" not in page
    assert {one for one in page if not one.isprintable()} == {"\n"}


def test_hostile_text_stays_in_its_attribute() -> None:
    """Quotes in the name of a phase do not end the label of its progress bar."""
    page = drawn(replace(STATUS, lock_status=replace(LOCK, statement=Statement("ALTER", EVIL, 3.0))))
    assert page.all("progress")[1] == {"max": "100", "value": "3.0", "aria-label": f"{printable(EVIL)}: 3 %"}


def test_no_expression_of_the_template_has_a_filter_of_its_own() -> None:
    """No expression of the template has a filter, because `| n` would disable the escaping."""
    source = Path(status_page.__file__).with_name("page.html.mako").read_text(encoding="utf-8")
    assert "${" in source
    assert "|" not in source
    assert "filter=" not in source


def test_the_page_shows_the_schema_s_state() -> None:
    """The page shows the schema's state, its revisions, the phase and the message."""
    text = drawn(STATUS).text
    for words in ("a, b → d", "behind this build", "phase waiting", "the database is at b", "web-2", "release v7"):
        assert words in text, words


def test_the_page_shows_the_blocking_session_first() -> None:
    """The page shows the blocking session in its first section, with pid, user, state and table."""
    page = drawn(STATUS)
    assert "The migration is blocked" in page.text
    for words in ("reports pid 77", "idle in transaction for 12 s", "user app", "AccessExclusiveLock on accounts"):
        assert words in page.text, words
    assert page.all("section")[0]["aria-labelledby"] == "blocked"


def test_the_page_without_a_message_shows_the_holder_s_statement() -> None:
    """The page of an instance without a message shows the lock holder and its statement."""
    assert "web-1 (pid 4242) holds the lock: CREATE INDEX" in drawn(replace(STATUS, message=None)).text


def test_the_page_shows_that_a_blocker_s_state_is_hidden() -> None:
    """The page shows a blocking session whose state is hidden from the role, with the GRANT that helps."""
    status = replace(STATUS, lock_status=replace(STATUS.lock_status, blocked_by=(Blocker(77),), grant="GRANT x TO y"))
    text = drawn(status).text
    assert "unnamed session pid 77 state hidden from this role" in text
    assert "GRANT x TO y" in text


def test_the_page_shows_pending_revisions_and_progress() -> None:
    """The page shows the pending revisions and labelled progress bars of the run and the statement."""
    page = drawn(STATUS)
    bars = [(bar["value"], bar["max"], bar["aria-label"]) for bar in page.all("progress")]
    assert bars == [("1", "3", "1 of 3 applied"), ("12.5", "100", "building index: 12 %")]
    for words in ("c now CREATE INDEX CONCURRENTLY, building index 12 % for 3 s", "attempt 2", "in 5.0 s"):
        assert words in page.text, words


def test_the_page_marks_applied_pending_revisions() -> None:
    """The page of the lock holder marks the revisions that its run has applied since the list was read."""
    status = replace(STATUS, phase=Phase.MIGRATING, progress=Progress(1, 2, "d", NOW))
    assert "c applied d now" in drawn(status).text


def test_an_overdue_attempt_is_shown_as_running() -> None:
    """The page shows an attempt whose time has come as running, and no negative seconds."""
    status = replace(STATUS, progress=replace(STATUS.progress, next_try_at=NOW - 3))
    assert "attempt 2 did not acquire its table lock; the next attempt is running" in drawn(status).text


def test_a_thousand_revisions_are_counted() -> None:
    """The page lists the first of a thousand pending revisions and counts the others."""
    schema = Schema(SchemaState.EMPTY, pending=tuple(f"r{number}" for number in range(1000)))
    text = drawn(replace(STATUS, schema=schema, progress=Progress())).text
    assert f"r{SHOWN - 1} and {1000 - SHOWN} more" in text


def test_a_long_run_counts_its_earlier_revisions() -> None:
    """The page lists the newest revisions of a long run and counts the earlier ones."""
    run = LastRun("applied", "web-1", applied=tuple(f"r{number}" for number in range(SHOWN + 1)))
    assert "and 1 earlier r1 ✓" in drawn(replace(STATUS, last_run=run)).text


def test_the_page_shows_a_holder_s_pause() -> None:
    """The page shows a lock holder between two attempts as pausing, and no statement."""
    text = drawn(replace(STATUS, lock_status=replace(LOCK, statement=None, retry=Retry(2, 5.0)))).text
    assert "pauses after attempt 2" in text
    assert "executes" not in text


def test_the_page_shows_the_fleet() -> None:
    """The page shows the lock holder, the waiters and its own instance, also without a session."""
    text = drawn(STATUS).text
    assert "web-2 (this instance) not ready" in text
    assert "web-1 migrating pid 4242, connected for 105 s" in text
    assert "web-2 (this instance) ready" in drawn(replace(STATUS, phase=Phase.READY, lock_status=LockStatus())).text


def test_an_instance_with_a_long_name_is_listed_once() -> None:
    """The page lists an instance once although the server has cut its long name."""
    pod = "payments-api-deployment-6d4f8c9b7d-x2k9p-1"
    lock_status = LockStatus(fleet=(Member(pod[:33], "migrating", 1, 1700000000.0),))
    text = drawn(replace(STATUS, instance=pod, lock_status=lock_status)).text
    assert text.count("(this instance)") == 1


@pytest.mark.parametrize(
    ("holder", "dialect", "words"),
    [
        (Holder("web-1", 7), "mysql", "held by web-1 session pid 7"),
        (Holder("web-1", 7, NOW - 5), "sqlite", "held by web-1 process pid 7 locked 22:15:00 UTC, 5.0 s ago"),
        (Holder("web-1"), "mysql", "held by web-1"),
    ],
)
def test_the_lock_is_described_for_each_database(holder: Holder, dialect: str, words: str) -> None:
    """The page shows a SQLite lock's process or a MySQL lock's session, and no hidden state."""
    kind = "process" if dialect == "sqlite" else "session"
    text = drawn(replace(STATUS, lock_status=LockStatus(holder), dialect=dialect, holder_kind=kind)).text
    assert words in text
    assert "hidden" not in text
    assert ("session pid" in text) is (dialect == "mysql" and holder.pid is not None)


def test_the_page_names_the_lock_holder() -> None:
    """The page names the lock holder with its pid, state and age."""
    assert "held by web-1 session pid 4242 , active connected 22:13:20 UTC, 105 s ago" in drawn(STATUS).text


def test_the_last_run_is_a_timeline() -> None:
    """The page shows the last run's revisions, with bars in proportion to their durations, and the failed one."""
    run = LastRun("failed", "web-1", 1700000000.0, 1700000060.0, ("a", "b"), "boom", (1.0, 4.0), "c")
    page = drawn(replace(STATUS, last_run=run))
    assert "failed by web-1, 22:13:20 UTC, 60 s a ✓ 1.0 s b ✓ 4.0 s c ✕ failed boom" in page.text
    assert [bar["width"] for bar in page.all("rect") if bar["class"] == "bar"] == ["25.0%", "100.0%"]


def test_a_run_without_durations_is_listed() -> None:
    """The page lists the revisions of a run without durations."""
    assert "b ✓ boom" in drawn(STATUS).text


def test_the_page_lists_recent_attempts_of_other_instances() -> None:
    """The page of an instance at head lists the recent attempts in the history table."""
    rows = (
        Recorded("c", "downgrade", "applied", "web-9", 1700000000.0, 2.5),
        Recorded("c", "upgrade", "failed", "<web>", 1700000000.0),
    )
    page = drawn(Status(Phase.READY, recent=rows))
    assert "c downgrade, applied 2023-11-14 22:13:20 UTC, 2.5 s, web-9" in page.text
    assert "c failed 2023-11-14 22:13:20 UTC, <web>" in page.text
    assert [row["class"] for row in page.all("li") if row.get("class")] == ["ok", "bad"]


def test_the_page_has_no_empty_section() -> None:
    """The page has only the sections for which the status has content."""
    assert titles(STATUS) == {"blocked", "invalid", "pending", "lock", "fleet", "last"}
    assert titles(Status()) == {"fleet"}
    assert titles(Status(Phase.READY, schema=Schema(SchemaState.AT_HEAD))) == {"fleet"}


@pytest.mark.parametrize(
    ("changes", "tone", "headline"),
    [
        ({"phase": Phase.FAILED}, "bad", "Failed at 22:15:00 UTC, not ready"),
        ({"lock_status": LockStatus(Holder("web-1", 1))}, "busy", "Waiting while web-1 migrates"),
        ({"lock_status": LockStatus(), "reachable": False}, "warn", "The database is unreachable"),
        ({"phase": Phase.CHECKING, "reachable": None}, "warn", "Connecting to the database"),
        ({"phase": Phase.READY, "lock_status": LockStatus()}, "ok", "Ready"),
        ({"phase": Phase.READY, "schema": Schema(SchemaState.AHEAD)}, "warn", "Ready, on a newer schema"),
        ({"phase": Phase.OFF, "lock_status": LockStatus()}, "warn", "Ready, the schema is not checked"),
    ],
)
def test_the_headline_has_words_and_a_colour(changes: dict[str, object], tone: str, headline: str) -> None:
    """The headline shows the state in words as well as by its colour."""
    page = drawn(replace(STATUS, **{"invalid_indexes": (), **changes}))  # type: ignore[arg-type]
    assert headline in page.text
    assert page.all("header")[0]["class"] == tone


@pytest.mark.parametrize("phase", list(Phase))
def test_the_page_of_every_phase_reloads(phase: Phase) -> None:
    """The page reloads after 2 s until the instance is ready, and then after 10 s."""
    status = replace(STATUS, phase=phase)
    refresh = [meta["content"] for meta in drawn(status).all("meta") if meta.get("http-equiv") == "refresh"]
    assert refresh == ["10" if status.ready else "2"]


def test_the_page_has_no_script_and_no_external_resource() -> None:
    """The page has no script and no address but the icon's own data."""
    page = drawn(STATUS)
    assert {name for name, _ in page.elements} & {"script", "img", "iframe", "a", "form", "object"} == set()
    addresses = [v for _, attributes in page.elements for k, v in attributes.items() if k in {"href", "src"}]
    assert [address and address.startswith("data:image/svg+xml,") for address in addresses] == [True]
    assert "style" not in {name for _, attributes in page.elements for name in attributes}


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("text/html, */*", True),
        ("application/json;q=0.5, text/html;q=0.9", True),
        ("", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("application/json, text/html", False),
        ("application/json, text/html;q=0.9", False),
        ("text/html;q=0.5, application/json", False),
        ("text/html;q=0.1, */*", False),
        ("text/html;q=0", False),
        ("text/html;q=much", False),
        ("text/htmlx", False),
        (",;,", False),
    ],
)
def test_only_requests_that_prefer_html_get_the_page(accept: str, html: bool) -> None:
    """A request that prefers HTML gets the page, and probes and scripts get JSON."""
    assert prefers_html(accept) is html


async def get(status: Status, **headers: str) -> httpx.Response:
    """Send a request to an application that has only the health routes."""
    transport = httpx.ASGITransport(Starlette(routes=routes(lambda: status)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get("/health/migrations", headers=headers)


@pytest.mark.parametrize("phase", list(Phase))
async def test_page_and_json_have_the_same_status_code(phase: Phase) -> None:
    """The page and the JSON have the same status code and cache headers in every phase."""
    page, data = await get(Status(phase), Accept=BROWSER), await get(Status(phase))
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert data.headers["Content-Type"] == "application/json"
    assert page.status_code == data.status_code == (200 if Status(phase).ready else 503)
    for answer in (page, data):
        assert (answer.headers["Cache-Control"], answer.headers["Vary"]) == ("no-store", "Accept")
        assert answer.headers.get("Retry-After") == (None if Status(phase).ready else str(RETRY_AFTER_SECONDS))


async def test_the_content_security_policy_allows_only_the_style_sheet() -> None:
    """The page's Content-Security-Policy allows only its own style sheet, by hash."""
    answer = await get(STATUS, Accept=BROWSER)
    policy = answer.headers["Content-Security-Policy"]
    style = re.search("<style>(.*?)</style>", answer.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; ")
    assert "unsafe" not in policy
