"""What `./dev rollout` makes of recorded requests, and its options, without running anything."""

import base64
import itertools
import json
from pathlib import Path

import pytest

from bench.rollout import document
from bench.rollout.__main__ import parse
from bench.rollout.outcome import QUICK, Event, Outcome, Phase, failures, kinds
from bench.rollout.probe import Stall
from bench.rollout.proxy import configured
from bench.rollout.report import table
from bench.rollout.sample import Sample, samples
from bench.rollout.targets import targets
from bench.rollout.timeline import svg

PROBLEM = base64.b64encode(b'{"type": "about:blank", "title": "The database is not available"}').decode()
RECORDED = f"""\
1100000000000,201,20000000,90,300,,,,1,POST,http://127.0.0.1:1/transactions,
1000000000000,200,4000000,0,120,,,,0,GET,http://127.0.0.1:1/accounts/7,
1101500000000,503,5000000000,0,70,503 Service Unavailable,{PROBLEM},,2,GET,http://127.0.0.1:1/accounts/8,
1102000000000,0,1000000,0,0,"Get ""http://127.0.0.1:4711/x"": EOF",,,3,GET,http://127.0.0.1:1/accounts/9,
"""


def recorded(variant: str = "this project") -> Outcome:
    """Return an outcome of four recorded requests, of which two in the deploy failed."""
    return Outcome(
        variant,
        "vegeta",
        QUICK,
        phases=[Phase("before", 1000, 1100), Phase("deploy", 1100, 1103)],
        events=[Event(1100.5, "new-1 starts")],
        samples=samples(RECORDED.splitlines()),
        stalls=[Stall(1101.0, 0.4, "postings"), Stall(1101.5, 0.1, "accounts")],
        migrators=["new-1"],
    )


def test_recorded_requests_have_their_time_status_and_problem() -> None:
    """Requests are in the order in which they were sent; a failure has the title of its problem document."""
    first, second, third, last = recorded().samples
    assert first == Sample(1000.0, 0.004, 200, "", "GET /accounts/7")
    assert (second.at, second.failed) == (1100.0, False)
    assert (third.failed, third.kind) == (True, "503: The database is not available")
    # without the request, which would make each failure a kind of its own
    assert last.kind == "no answer: EOF"


def test_failures_are_counted_in_their_phase_and_by_kind() -> None:
    """A failed request counts for the phase in which it was sent."""
    outcome = recorded()
    before, deploy = outcome.phases
    assert failures(outcome.of(before)) == []
    assert len(failures(outcome.of(deploy))) == 2
    assert kinds(outcome.samples)["503: The database is not available"] == 1


def test_a_failed_request_in_the_deploy_misses_a_goal() -> None:
    """The table has each phase of the rollout; a failed request in the deploy misses a goal."""
    rows = {row.name: row for row in table([recorded()]).rows}
    assert rows["before: failed requests"].cells == ["0 of 1"]
    assert rows["deploy: failed requests"].cells == ["2 of 3"]
    assert rows["deploy: failed requests"].verdict == "MISSED"
    assert rows["deploy: p50, p99, longest"].cells == ["20, 5,000, 5,000 ms"]
    assert rows["longest wait for a lock"].cells == ["0.40 s, postings"]
    assert rows["longest wait for a lock"].verdict == "reached"
    assert rows["instances that migrated"].verdict == "reached"
    assert not any(name.startswith("rollback") for name in rows)


def test_waits_and_migrating_instances_have_goals() -> None:
    """A wait longer than the last lock timeout, and two instances that migrated, miss their goals."""
    outcome = recorded()
    outcome.stalls, outcome.migrators = [Stall(1101.0, 9.0, "postings")], ["new-1", "new-2"]
    rows = {row.name: row for row in table([outcome]).rows}
    assert rows["longest wait for a lock"].verdict == rows["instances that migrated"].verdict == "MISSED"


def test_only_this_project_has_goals() -> None:
    """The recipe stands beside this project, and its failures are a note and not a missed goal."""
    ours = recorded()
    ours.samples = [sample for sample in ours.samples if not sample.failed]
    found = table([ours, recorded("the recipe")])
    assert found.missed == 0
    assert found.notes == ["Failed requests of the recipe: 1 × 503: The database is not available; 1 × no answer: EOF."]


def test_a_load_that_was_too_high_from_the_start_is_a_note() -> None:
    """Slow requests before the deploy say something about the machine, and the note says what to do."""
    outcome = recorded()
    outcome.samples = [Sample(1000.0, 3.0, 200, "", "GET /accounts/7")]
    [note] = table([outcome]).notes
    assert note.startswith("this project: too many requests for this machine")
    assert "--rate" in note


def test_the_document_keeps_its_text_around_new_figures(tmp_path: Path) -> None:
    """Only the part between the two comments changes, also when it is written a second time."""
    outcomes = [recorded(), recorded("the recipe")]
    document.write(outcomes, ["first"], tmp_path)
    written = document.write(outcomes, ["second"], tmp_path).read_text()
    before, _, rest = document.DOCUMENT.read_text().partition(document.BEGIN)
    assert written.startswith(before)
    assert written.endswith(rest.partition(document.END)[2])
    assert "| deploy: failed requests | 2 of 3 | 2 of 3 |" in written
    assert "0.5 s  new-1 starts" in written
    assert "second" in written
    assert (tmp_path / document.PICTURE).read_text() == svg(outcomes)


def test_the_picture_shows_each_variant_and_phase() -> None:
    """Each panel has the names of the phases, and bars where requests failed."""
    drawn = svg([recorded(), recorded("the recipe")])
    assert drawn.count(">deploy</text>") == drawn.count("red: failed requests") == 2
    assert "#da3633" in drawn


def test_each_posted_transaction_has_a_key_of_its_own() -> None:
    """The load reads and writes, and repeats no Idempotency-Key."""
    requests = [json.loads(line) for line in itertools.islice(targets("http://proxy", 50), 100)]
    keys = [each["header"]["Idempotency-Key"][0] for each in requests if each["url"].endswith("/transactions")]
    assert len(keys) == len(set(keys)) == 30
    assert sum(each["method"] == "GET" for each in requests) == 60


def test_the_load_balancer_gets_the_ports_and_keeps_its_other_lines() -> None:
    """Only the port and the list of instances differ from the file that users copy."""
    lines = configured(8123, {"a-1": 9001, "b-1": 9002}).splitlines()
    assert [line.strip() for line in lines if line.strip().startswith(("bind", "server "))] == [
        "bind 127.0.0.1:8123",
        "server a-1 127.0.0.1:9001",
        "server b-1 127.0.0.1:9002",
    ]
    assert "    option httpchk GET /health/ready" in lines


@pytest.mark.parametrize("words", [["--rate", "0"], ["--postings", "many"], ["--rate", "99999999"]])
def test_a_senseless_size_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A size outside its limits is refused with the limits, before anything starts."""
    with pytest.raises(SystemExit):
        parse(words)
    assert "must be a number from 1" in capsys.readouterr().err
