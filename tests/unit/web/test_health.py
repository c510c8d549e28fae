"""The health endpoints have a fixed shape, a verdict, and status codes for probes."""

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from api.migrations.core.schema import Schema, SchemaState
from api.migrations.core.status import Phase, Statement, Status, Tracker
from api.migrations.web.gate import RETRY_AFTER_SECONDS
from api.migrations.web.health import body, routes, verdict
from tests.support.statuses import STATUS

SHAPE = {
    "status": str,
    "state": str,
    "phase": str,
    "since": str,
    "message": str,
    "gives_up": {"at": str, "seconds": float, "setting": str},
    "failure": type(None),
    "strategy": str,
    "instance": str,
    "release": str,
    "database": {
        "dialect": str,
        "reachable": bool,
        "unreachable_since": type(None),
        "read_at": str,
        "revisions": [str],
    },
    "expected_heads": [str],
    "pending": {"count": int, "revisions": [str]},
    "progress": {
        "applied": int,
        "total": int,
        "current": str,
        "started_at": str,
        "elapsed_seconds": float,
        "attempt": int,
        "next_try_at": str,
        "statement": {
            "kind": str,
            "phase": str,
            "percent": float,
            "seconds": float,
            "rows": int,
            "total_rows": int,
            "rows_per_second": float,
        },
    },
    "lock": {
        "key": str,
        "held": bool,
        "holder": {"instance": str, "pid": int, "since": str, "state": str},
        "waited_seconds": float,
    },
    "blocked_since": str,
    "blocked_by": [
        {
            "pid": int,
            "application": str,
            "user": str,
            "state": str,
            "seconds": float,
            "relation": str,
            "mode": str,
            "terminate_needs": str,
            "lacks": type(None),
            "sessions": int,
        }
    ],
    "fleet": [{"instance": str, "role": str, "pid": int, "since": str}],
    "invalid_indexes": [str],
    "last_run": {
        "result": str,
        "started_at": str,
        "finished_at": str,
        "applied": [str],
        "instance": str,
        "error": str,
    },
    "advice": {"text": str, "commands": [str], "runbook": str},
}


def shape(value: Any) -> Any:
    """Return the same structure with types in the place of values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(value[0])] if isinstance(value, list) else type(value)


def shown(status: Status) -> Any:
    """Return the body after JSON encoding and decoding."""
    return json.loads(json.dumps(body(status)))


def test_the_body_has_exactly_the_promised_shape() -> None:
    """The body of /health/migrations has exactly the documented keys and types."""
    batches = Statement("UPDATE", "backfill of postings", 12.5, 3.0, 1_250_000, 10_000_000, 21_000.0)
    status = replace(STATUS, lock_status=replace(STATUS.lock_status, statement=batches))
    assert shape(shown(status)) == SHAPE


def test_a_fresh_status_has_the_same_keys() -> None:
    """The body of a fresh status has the same keys, with null or empty values."""
    fresh = shown(Status())
    assert fresh.keys() == SHAPE.keys()
    assert (fresh["last_run"], fresh["lock"]["holder"], fresh["database"]["reachable"]) == (None, None, None)
    assert fresh["pending"] == {"count": 0, "revisions": []}


def test_a_failure_has_its_time_and_what_was_seen_before() -> None:
    """The body of a failed instance has its time; the blocking session is only in what was last seen before."""
    tracker = Tracker()
    tracker.status = STATUS
    tracker.move(Phase.FAILED, message="boom")
    tracker.note(held=True)
    seen = shown(tracker.status)
    assert datetime.fromisoformat(seen["failure"]["at"]).timestamp() == pytest.approx(tracker.status.since)
    assert (seen["failure"]["held"], seen["failure"]["last_seen"]["blocked_by"][0]["pid"]) == (True, 77)
    assert (seen["blocked_by"], seen["blocked_since"], seen["gives_up"], seen["lock"]["holder"]) == (
        [],
        None,
        None,
        None,
    )
    assert (seen["progress"]["current"], seen["progress"]["next_try_at"]) == (None, None)


def test_the_seconds_of_a_failed_run_stand_still() -> None:
    """The elapsed seconds of a failed run do not grow while the process stays up."""
    failed = replace(STATUS, phase=Phase.FAILED)
    assert shown(failed)["progress"]["elapsed_seconds"] == 60.0
    assert shown(replace(failed, last_run=None))["progress"]["elapsed_seconds"] == 100.0


def test_the_values_are_those_of_the_status() -> None:
    """The body has the values of the status, with pending revisions in the order of their application."""
    seen = shown(STATUS)
    assert (seen["state"], seen["phase"], seen["database"]["revisions"]) == ("behind", "waiting", ["a", "b"])
    assert (seen["pending"], seen["expected_heads"]) == ({"count": 2, "revisions": ["c", "d"]}, ["d"])
    assert (seen["lock"]["held"], seen["lock"]["holder"]["instance"]) == (False, "web-1")


def test_moments_are_in_utc_with_their_offset() -> None:
    """Times in the body are in UTC with their offset, whatever the host's time zone is."""
    for moment in (shown(STATUS)["progress"]["started_at"], shown(STATUS)["lock"]["holder"]["since"]):
        assert moment == "2023-11-14T22:13:20+00:00"
        assert datetime.fromisoformat(moment).timestamp() == 1700000000.0


def test_the_seconds_of_a_ready_instance_s_run_stand_still() -> None:
    """The elapsed seconds of a ready instance's run do not grow."""
    assert shown(replace(STATUS, phase=Phase.READY))["progress"]["elapsed_seconds"] == 60.0
    assert shown(replace(STATUS, phase=Phase.READY, last_run=None))["progress"]["elapsed_seconds"] == 100.0


def test_a_migrating_instance_holds_the_lock_and_does_not_wait() -> None:
    """The body of a migrating instance says that it holds the lock and waits for 0 s."""
    seen = shown(replace(STATUS, phase=Phase.MIGRATING))
    assert (seen["lock"]["held"], seen["lock"]["waited_seconds"]) == (True, 0)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("state", list(SchemaState))
def test_the_verdict_follows_phase_and_state(phase: Phase, state: SchemaState) -> None:
    """The verdict is `fail` unless the instance is ready, `warn` for a schema ahead of the build, and else `pass`."""
    ready = phase in {Phase.READY, Phase.OFF}
    expected = "fail" if not ready else "warn" if state is SchemaState.AHEAD else "pass"
    assert verdict(Status(phase, schema=Schema(state))) == expected


async def get(status: Status, path: str) -> httpx.Response:
    """Send a request to an application that has only the three routes."""
    transport = httpx.ASGITransport(Starlette(routes=routes(lambda: status)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path)


@pytest.mark.parametrize("phase", list(Phase))
async def test_liveness_holds_in_every_phase(phase: Phase) -> None:
    """/health/live answers 200 in every phase, because a probe must not kill a migrating pod."""
    answer = await get(Status(phase), "/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "pass"})


@pytest.mark.parametrize("path", ["/health/ready", "/health/migrations"])
@pytest.mark.parametrize("phase", list(Phase))
async def test_readiness_follows_the_phase(path: str, phase: Phase) -> None:
    """/health/ready answers 200 if the instance is ready, and else 503 with an integer Retry-After, never cached."""
    answer = await get(Status(phase), path)
    ready = phase in {Phase.READY, Phase.OFF}
    assert answer.status_code == (200 if ready else 503)
    assert answer.headers.get("Retry-After") == (None if ready else str(RETRY_AFTER_SECONDS))
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json()["status"] == ("pass" if ready else "fail")


async def test_a_warning_is_served_with_200() -> None:
    """/health/ready answers 200 with `warn` for a schema ahead of the build and for an INVALID index."""
    at_head = Schema(SchemaState.AT_HEAD)
    for status in (
        Status(Phase.READY, schema=Schema(SchemaState.AHEAD)),
        Status(Phase.READY, schema=at_head, invalid_indexes=("ix",)),
    ):
        answer = await get(status, "/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (200, "warn")


async def test_readiness_has_phase_and_message() -> None:
    """/health/ready of an unready instance has the phase and the message, without the long body."""
    answer = await get(STATUS, "/health/ready")
    assert answer.json() == {"status": "fail", "phase": "waiting", "message": "the database is at b"}
