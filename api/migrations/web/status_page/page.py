"""The page for people at `/health/migrations`: the status as one HTML document that needs nothing else.

No script, no asset: it must work from a phone, through a tunnel, while everything else answers 503. It is drawn from
the same frozen status as the JSON, so looking at it asks the database nothing.
"""

from __future__ import annotations

from ...core.schema import SchemaState
from ...core.status import Phase, Status
from .markup import Html, element, joined, void
from .sections import clock, facts, names, sections
from .style import HEADERS as HEADERS
from .style import STYLE, icon

REFRESH_SECONDS = {False: 2, True: 10}
"""By readiness."""

_OURS = {"text/html", "application/json", "application/*", "*/*"}
_HEADLINES = {
    Phase.STARTING: "Starting",
    Phase.CHECKING: "Reading the database",
    Phase.WAITING: "Waiting",
    Phase.MIGRATING: "Migrating",
    Phase.VERIFYING: "Verifying the schema",
    Phase.READY: "Ready",
    Phase.FAILED: "Failed, not ready",
    Phase.OFF: "Ready, the schema is not checked",
}
_STATES = {
    SchemaState.UNKNOWN: "not read yet",
    SchemaState.EMPTY: "empty",
    SchemaState.BEHIND: "behind this build",
    SchemaState.AT_HEAD: "at head",
    SchemaState.AHEAD: "ahead of this build",
    SchemaState.DIVERGED: "diverged from this build",
    SchemaState.DIRTY: "half applied",
}


def prefers_html(accept: str) -> bool:
    """Whether an `Accept` header asks for a page: it names `text/html`, and nothing that JSON is with more weight.

    Of two that weigh the same the first one counts: browsers name HTML first, everything else never does.
    """
    offers = sorted(map(_offer, accept.lower().split(",")), key=lambda offer: -offer[1])
    best = next((kind for kind, weight in offers if weight > 0 and kind in _OURS), "*/*")
    return best == "text/html"


def _offer(text: str) -> tuple[str, float]:
    kind, *parameters = (part.strip() for part in text.split(";"))
    weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
    try:
        return kind, float(weight)
    except ValueError:
        return kind, 0.0


def render(status: Status, now: float) -> str:
    """The document.

    Args:
        status: what is shown.
        now: epoch seconds, for what is told as an age.
    """
    tone, headline = _tone(status), _headline(status)
    head = element(
        "head",
        void("meta", charset="utf-8"),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void("meta", http_equiv="refresh", content=REFRESH_SECONDS[status.ready]),
        element("title", f"{headline} · {status.instance}"),
        void("link", rel="icon", href=icon(tone)),
        # ours, and hashed as it stands
        element("style", Html(STYLE)),
    )
    main = element("main", _header(status, tone, headline), *sections(status, now), _footer(status, now))
    return f"<!doctype html>\n{element('html', head, element('body', main), lang='en')}\n"


def _tone(status: Status) -> str:
    if status.phase is Phase.FAILED:
        return "bad"
    if status.lock_status.blocked_by or status.invalid_indexes or status.reachable is False:
        return "warn"
    if status.ready:
        return "warn" if status.schema.state is SchemaState.AHEAD or status.phase is Phase.OFF else "ok"
    return "busy"


def _headline(status: Status) -> str:
    holder = status.lock_status.holder
    if status.phase in {Phase.WAITING, Phase.MIGRATING} and status.lock_status.blocked_by:
        return "The migration is blocked"
    if status.phase is Phase.WAITING and status.reachable is False:
        return "Waiting for the database"
    if status.phase is Phase.WAITING and holder is not None:
        return f"Waiting while {holder.instance} migrates"
    if status.phase is Phase.READY and status.schema.state is SchemaState.AHEAD:
        return "Ready, on a newer schema"
    return _HEADLINES[status.phase]


def _header(status: Status, tone: str, headline: str) -> Html:
    schema = status.schema
    where = [element("code", names(schema.revisions))]
    if schema.heads and schema.heads != schema.revisions:
        where += [Html(" → "), element("code", names(schema.heads))]
    stands = [("database", joined(*where)), ("schema", _STATES[schema.state]), ("phase", status.phase)]
    if status.reachable is False:
        stands.insert(0, ("database", "not reachable"))
    said = status.message or (str(status.lock_status) if status.lock_status.holder else None)
    text = element("p", said) if said else None
    return element("header", element("h1", headline), text, facts(*stands), class_=tone)


def _footer(status: Status, now: float) -> Html:
    known = [status.instance, f"release {status.release}" if status.release else None, status.strategy, status.dialect]
    key = element("p", f"lock {status.lock_key}") if status.lock_key else None
    again = f"As of {clock(now)}; again every {REFRESH_SECONDS[status.ready]} s."
    return element("footer", " · ".join(filter(None, known)), key, element("p", again))
