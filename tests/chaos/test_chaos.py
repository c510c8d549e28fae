"""Two rounds of `./dev chaos`, so that the command keeps working."""

import random

from tests.chaos.faults import cut_off_holder, kill_holder, stop_holder
from tests.chaos.lab import laboratory
from tests.chaos.rounds import INSTANCES, play


def test_a_round_keeps_every_promise() -> None:
    """The holder is stopped, and then the one that migrates is killed."""
    with laboratory() as lab:
        verdict = play(lab, "chaos_round", random.Random(1), [stop_holder, kill_holder])
    assert not verdict.broken, verdict
    assert set(verdict.faults) == {"stop_holder", "kill_holder"}


def test_a_round_without_a_network_keeps_every_promise() -> None:
    """Whoever migrates is cut off from the server: by the seed for 6 s, longer than the idle limit of the fleet."""
    with laboratory(hosts=INSTANCES) as lab:
        verdict = play(lab, "chaos_cut", random.Random(8), [cut_off_holder])
    assert not verdict.broken, verdict
    assert set(verdict.faults) == {"cut_off_holder"}
