"""Two rounds of `./dev chaos` pass, so that the command keeps working."""

import random

from tests.chaos.faults import cut_off_holder, kill_holder, stop_holder
from tests.chaos.lab import laboratory
from tests.chaos.rounds import INSTANCES, play


def test_a_round_with_a_stopped_and_a_killed_holder_keeps_every_promise() -> None:
    """The lock holder is stopped, and then the lock holder is killed: the round keeps every promise."""
    with laboratory() as lab:
        verdict = play(lab, "chaos_round", random.Random(1), [stop_holder, kill_holder])
    assert not verdict.broken, verdict
    assert set(verdict.faults) == {"stop_holder", "kill_holder"}


def test_a_round_with_a_cut_off_holder_keeps_every_promise() -> None:
    """The lock holder is cut off for 6 s, longer than the fleet's idle limit: the round keeps every promise."""
    with laboratory(hosts=INSTANCES) as lab:
        verdict = play(lab, "chaos_cut", random.Random(8), [cut_off_holder])
    assert not verdict.broken, verdict
    assert set(verdict.faults) == {"cut_off_holder"}
