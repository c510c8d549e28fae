"""The page for people: what it shows in each state, that it escapes what it is told, and who gets it."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
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
from api.migrations.web.gate import RETRY_AFTER_SECONDS
from api.migrations.web.health import routes
from api.migrations.web.status_page import page as status_page
from api.migrations.web.status_page.page import SHOWN, prefers_html, render
from tests.unit.web.test_health import STATUS

NOW = 1700000105.0
EVIL = "<script>alert('1')</script>\"&\x1b[2J\u202e"
LOCK = STATUS.lock_status
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
VOID = {"meta", "link"}


class Document(HTMLParser):
    """Reads a page: its words, its elements with their attributes, and that every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._inside: list[str] = []
        self.feed(page)
        assert self._inside == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """It must be the one that is open."""
        assert self._inside.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text, unescaped."""
        if "style" not in self._inside:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of the elements of that name."""
        return [attributes for name, attributes in self.elements if name == tag]


def drawn(status: Status) -> Document:
    """The page of a status."""
    return Document(render(status, NOW))


def titles(status: Status) -> set[str | None]:
    """The sections that are there, by their first words."""
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
        {"schemas": {EVIL: Schema()}},
        {"schemas": {"main": Schema(revisions=frozenset({EVIL}))}},
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
    """A name, a message or an error writes no markup into the page, and no control or bidi character."""
    page = render(replace(STATUS, **changes), NOW)  # type: ignore[arg-type]
    assert printable(EVIL) in Document(page).text
    assert "<script" not in page
    assert {one for one in page if not one.isprintable()} == {"\n"}


def test_hostile_text_stays_in_its_attribute() -> None:
    """Quotes do not end the label of a bar."""
    page = drawn(replace(STATUS, lock_status=replace(LOCK, statement=Statement("ALTER", EVIL, 3.0))))
    assert page.all("progress")[1] == {"max": "100", "value": "3.0", "aria-label": f"{printable(EVIL)}: 3 %"}


def test_no_expression_of_the_template_has_a_filter_of_its_own() -> None:
    """`| n` would switch escaping off."""
    source = Path(status_page.__file__).with_name("page.html.mako").read_text(encoding="utf-8")
    assert "${" in source
    assert "|" not in source
    assert "filter=" not in source


def test_it_says_where_the_schema_stands() -> None:
    """State, revisions, phase and the one line."""
    text = drawn(STATUS).text
    for words in ("a, b → d", "behind this build", "phase waiting", "the database is at b", "web-2", "release v7"):
        assert words in text, words


def test_it_says_who_is_in_the_way() -> None:
    """With what a person needs to find and end that session; and it stands first."""
    page = drawn(STATUS)
    assert "The migration is blocked" in page.text
    for words in ("reports pid 77", "idle in transaction for 12 s", "user app", "AccessExclusiveLock on accounts"):
        assert words in page.text, words
    assert page.all("section")[0]["aria-labelledby"] == "blocked"


def test_without_a_message_it_tells_what_the_holder_does() -> None:
    """A statement that only waits has not said anything yet."""
    assert "web-1 (pid 4242) holds the lock: CREATE INDEX" in drawn(replace(STATUS, message=None)).text


def test_a_blocker_that_is_hidden_says_so() -> None:
    """A role without pg_read_all_stats sees the pid and no more."""
    status = replace(STATUS, lock_status=replace(STATUS.lock_status, blocked_by=(Blocker(77),), grant="GRANT x TO y"))
    text = drawn(status).text
    assert "unnamed session pid 77 state hidden from this role" in text
    assert "GRANT x TO y" in text


def test_it_says_what_is_pending_and_how_far_it_is() -> None:
    """A bar for the run and one for the statement, each with words for those who do not see bars."""
    page = drawn(STATUS)
    bars = [(bar["value"], bar["max"], bar["aria-label"]) for bar in page.all("progress")]
    assert bars == [("1", "3", "1 of 3 applied"), ("12.5", "100", "building index: 12 %")]
    for words in ("c now CREATE INDEX CONCURRENTLY, building index 12 % for 3 s", "attempt 2", "in 5.0 s"):
        assert words in page.text, words


def test_what_the_run_has_applied_is_told_from_what_is_left() -> None:
    """The one that migrates read the list before its run began."""
    status = replace(STATUS, phase=Phase.MIGRATING, progress=Progress(1, 2, "d", NOW))
    assert "c applied d now" in drawn(status).text


def test_a_try_whose_time_has_come_is_under_way() -> None:
    """Never a negative number of seconds."""
    status = replace(STATUS, progress=replace(STATUS.progress, next_try_at=NOW - 3))
    assert "attempt 2 did not acquire its table lock; the next attempt is running" in drawn(status).text


def test_a_thousand_revisions_are_counted() -> None:
    """The page of a new database stays readable."""
    schema = Schema(SchemaState.EMPTY, pending=tuple(f"r{number}" for number in range(1000)))
    text = drawn(replace(STATUS, schema=schema, progress=Progress())).text
    assert f"r{SHOWN - 1} and {1000 - SHOWN} more" in text


def test_a_long_run_counts_its_earlier_revisions() -> None:
    """The list has its newest revisions, and the number is that of the others."""
    run = LastRun("applied", "web-1", applied=tuple(f"r{number}" for number in range(SHOWN + 1)))
    assert "and 1 earlier r1 ✓" in drawn(replace(STATUS, last_run=run)).text


def test_a_holder_between_two_attempts_pauses() -> None:
    """It executes nothing then."""
    text = drawn(replace(STATUS, lock_status=replace(LOCK, statement=None, retry=Retry(2, 5.0)))).text
    assert f"pauses {Retry(2, 5.0)}" in text
    assert "executes" not in text


def test_it_shows_the_fleet() -> None:
    """Who migrates, who waits, and this instance even when it has no session."""
    text = drawn(STATUS).text
    assert "web-2 (this instance) not ready" in text
    assert "web-1 migrating pid 4242, connected for 105 s" in text
    assert "web-2 (this instance) ready" in drawn(replace(STATUS, phase=Phase.READY, lock_status=LockStatus())).text


def test_an_instance_with_a_long_name_is_there_once() -> None:
    """The server keeps only its beginning."""
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
def test_the_lock_is_told_in_the_databases_words(holder: Holder, dialect: str, words: str) -> None:
    """A file's lock is a process's, and only PostgreSQL has states that could be hidden."""
    kind = "process" if dialect == "sqlite" else "session"
    text = drawn(replace(STATUS, lock_status=LockStatus(holder), dialect=dialect, holder_kind=kind)).text
    assert words in text
    assert "hidden" not in text
    assert ("session pid" in text) is (dialect == "mysql" and holder.pid is not None)


def test_it_says_who_holds_the_lock() -> None:
    """By name and process id."""
    assert "held by web-1 session pid 4242 , active connected 22:13:20 UTC, 105 s ago" in drawn(STATUS).text


def test_the_last_run_is_a_timeline() -> None:
    """What was applied with its duration as a length, and what failed."""
    run = LastRun("failed", "web-1", 1700000000.0, 1700000060.0, ("a", "b"), "boom", (1.0, 4.0), "c")
    page = drawn(replace(STATUS, last_run=run))
    assert "failed by web-1, 22:13:20 UTC, 60 s a ✓ 1.0 s b ✓ 4.0 s c ✕ failed boom" in page.text
    assert [bar["width"] for bar in page.all("rect") if bar["class"] == "bar"] == ["25.0%", "100.0%"]


def test_a_run_without_durations_is_listed_all_the_same() -> None:
    """Not everybody who ends a run has timed it."""
    assert "b ✓ boom" in drawn(STATUS).text


def test_what_others_have_done_is_listed_too() -> None:
    """From the history table, so that an instance which found everything at head can tell as well."""
    rows = (
        Recorded("c", "downgrade", "applied", "web-9", 1700000000.0, 2.5),
        Recorded("c", "upgrade", "failed", "<web>", 1700000000.0),
    )
    page = drawn(Status(Phase.READY, recent=rows))
    assert "c downgrade, applied 2023-11-14 22:13:20 UTC, 2.5 s, web-9" in page.text
    assert "c failed 2023-11-14 22:13:20 UTC, <web>" in page.text
    assert [row["class"] for row in page.all("li") if row.get("class")] == ["ok", "bad"]


def test_there_is_no_section_without_content() -> None:
    """A calm page when all is well, and only what is known when nothing is."""
    assert titles(STATUS) == {"blocked", "invalid", "pending", "lock", "fleet", "last"}
    assert titles(Status()) == {"fleet"}
    assert titles(Status(Phase.READY, schema=Schema(SchemaState.AT_HEAD))) == {"fleet"}


@pytest.mark.parametrize(
    ("changes", "tone", "headline"),
    [
        ({"phase": Phase.FAILED}, "bad", "Failed, not ready"),
        ({"lock_status": LockStatus(Holder("web-1", 1))}, "busy", "Waiting while web-1 migrates"),
        ({"lock_status": LockStatus(), "reachable": False}, "warn", "Waiting for the database"),
        ({"phase": Phase.READY, "lock_status": LockStatus()}, "ok", "Ready"),
        ({"phase": Phase.READY, "schema": Schema(SchemaState.AHEAD)}, "warn", "Ready, on a newer schema"),
        ({"phase": Phase.OFF, "lock_status": LockStatus()}, "warn", "Ready, the schema is not checked"),
    ],
)
def test_the_headline_says_it_in_words_and_in_colour(changes: dict[str, object], tone: str, headline: str) -> None:
    """Never in colour alone."""
    page = drawn(replace(STATUS, **{"invalid_indexes": (), **changes}))  # type: ignore[arg-type]
    assert headline in page.text
    assert page.all("header")[0]["class"] == tone


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_has_a_page_that_comes_again(phase: Phase) -> None:
    """Soon while something happens, later when it is ready."""
    status = replace(STATUS, phase=phase)
    refresh = [meta["content"] for meta in drawn(status).all("meta") if meta.get("http-equiv") == "refresh"]
    assert refresh == ["10" if status.ready else "2"]


def test_it_needs_no_script_and_nothing_from_elsewhere() -> None:
    """No address in it but the icon's own data."""
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
def test_who_gets_the_page(accept: str, html: bool) -> None:
    """Those who name HTML and nothing before it; probes and scripts keep their JSON."""
    assert prefers_html(accept) is html


async def get(status: Status, **headers: str) -> httpx.Response:
    """Ask an application that has the health routes and nothing else."""
    transport = httpx.ASGITransport(Starlette(routes=routes(lambda: status)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get("/health/migrations", headers=headers)


@pytest.mark.parametrize("phase", list(Phase))
async def test_page_and_json_have_the_same_status_code(phase: Phase) -> None:
    """A probe that happens to name HTML must not take an unready instance for a ready one."""
    page, data = await get(Status(phase), Accept=BROWSER), await get(Status(phase))
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert data.headers["Content-Type"] == "application/json"
    assert page.status_code == data.status_code == (200 if Status(phase).ready else 503)
    for answer in (page, data):
        assert (answer.headers["Cache-Control"], answer.headers["Vary"]) == ("no-store", "Accept")
        assert answer.headers.get("Retry-After") == (None if Status(phase).ready else str(RETRY_AFTER_SECONDS))


async def test_a_browser_may_load_nothing_with_it() -> None:
    """Only the one style sheet that is in it, known by its hash."""
    answer = await get(STATUS, Accept=BROWSER)
    policy = answer.headers["Content-Security-Policy"]
    style = re.search("<style>(.*?)</style>", answer.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; ")
    assert "unsafe" not in policy
