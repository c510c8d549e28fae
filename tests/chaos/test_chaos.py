"""One round of `./dev chaos`, so that the command keeps working."""

import random

from tests.chaos.rounds import play
from tests.servers import embedded_postgres


def test_a_round_keeps_every_promise() -> None:
    """Seed 115: the holder is stopped, and then the one that migrates is killed."""
    with embedded_postgres() as server:
        verdict = play(server, "chaos_round", random.Random(115))
    assert verdict.good, verdict
    assert set(verdict.faults) == {"stop_holder", "kill_holder"}
