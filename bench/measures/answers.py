"""How fast an instance answers probes: while it runs a revision that computes in Python, and when it is ready."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable

from bench.errors import BenchError
from bench.held import until
from bench.laboratory import Laboratory, our_upgrade, timed
from bench.projects import project, small_bodies
from bench.service import Instance
from bench.spread import COUNT, MILLISECONDS, Spread
from bench.table import Goal, Row, Table
from devtools.ports import HOST

LIVE, STATE = "/health/live", "/health/migrations"
LIMIT_SECONDS = 0.030
PAUSE_SECONDS = 0.005
COLUMNS = ["median (smallest–largest)", "p99"]
PAGE = {"Accept": "text/html"}
COMPUTING = """\
end = time.monotonic() + {seconds}
    while time.monotonic() < end:
        sum(number * number for number in range(1000))"""
"""A body of `upgrade()` that needs one core, and Python's global lock, all the time."""


def measure(lab: Laboratory) -> Table:
    """Ask the instance that migrates for its liveness, then count answers of one that is ready."""
    seconds = lab.size(15, 2)
    during = _while_it_computes(lab, seconds)
    state, page, live = _ready(lab, lab.size(5, 1))
    p99 = Spread.of([during.percentile(99)])
    rows = [
        Row(
            f"`{LIVE}` while a revision computes",
            [during.words(MILLISECONDS), p99.words(MILLISECONDS)],
            [Goal.at_most(LIMIT_SECONDS, p99.median, MILLISECONDS)],
        ),
        *(
            Row(f"{what}, answers per second", [spread.words(COUNT), ""])
            for what, spread in {f"`{STATE}`": state, "its page for browsers": page, f"`{LIVE}`": live}.items()
        ),
    ]
    notes = ["One client, one connection, one request at a time; the client has the other core."]
    return Table(COLUMNS, rows, notes)


def _while_it_computes(lab: Laboratory, seconds: int) -> Spread:
    body = COMPUTING.format(seconds=seconds)
    files = project(lab.folder(), [*small_bodies(1), body])
    instance = Instance("ours", lab.environment(lab.database.empty_database(), files.ours), files.ours.parent)
    taken: list[float] = []
    try:
        client = http.client.HTTPConnection(HOST, instance.port, timeout=60)
        until(lambda: _migrating(client), "the instance migrates")
        # a second less than the revision takes, so that it computes all the time
        end = time.monotonic() + seconds - 1
        while time.monotonic() < end:
            began = time.perf_counter()
            _get(client, LIVE)
            taken.append(time.perf_counter() - began)
            time.sleep(PAUSE_SECONDS)
        if not _migrating(client):
            raise BenchError("the revision ended before the last request")
    finally:
        instance.program.end()
    return Spread.of(taken)


def _migrating(client: http.client.HTTPConnection) -> bool:
    try:
        return b'"phase":"migrating"' in _get(client, STATE)
    except OSError:
        # it does not listen yet
        client.close()
        return False


def _ready(lab: Laboratory, seconds: int) -> tuple[Spread, Spread, Spread]:
    files = project(lab.folder(), small_bodies(10))
    url = lab.database.empty_database()
    environment = lab.environment(url, files.ours)
    timed(our_upgrade(), environment)
    instance = Instance("ours", environment, files.ours.parent)
    try:
        instance.first_200("/items")
        client = http.client.HTTPConnection(HOST, instance.port, timeout=60)
        asks: tuple[Callable[[], object], ...] = (
            lambda: _get(client, STATE),
            lambda: _get(client, STATE, PAGE),
            lambda: _get(client, LIVE),
        )
        rates: list[list[float]] = [[] for _ in asks]
        for _ in range(lab.times(5)):
            for ask, measured in zip(asks, rates, strict=True):
                measured.append(_per_second(ask, seconds))
    finally:
        instance.program.end()
    state, page, live = map(Spread.of, rates)
    return state, page, live


def _per_second(ask: Callable[[], object], seconds: int) -> float:
    began, count = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        ask()
        count += 1
    return count / passed


def _get(client: http.client.HTTPConnection, path: str, headers: dict[str, str] | None = None) -> bytes:
    client.request("GET", path, headers=headers or {})
    return client.getresponse().read()
