"""How slow this machine is right now, as one factor for the limits of a run of the tests.

A limit that a test must not reach is long. A limit that it must reach, or below which other work has to stay (a lease,
an idle limit, the budget of a run), is short, because the test waits for it, and `scaled`, because the same work takes
longer on a busy machine. The first process of a run measures the factor and passes it to those that it starts.
"""

import os
import subprocess
import sys
import time
from functools import cache

VARIABLE = "TESTS_PACE_FACTOR"
"""The environment variable with the factor; set it to skip the measurement."""
LARGEST = 4.0
AT_ONCE = 6
"""As many processes as the tests run on."""
USUAL_SECONDS = 0.4
"""How many seconds the work takes if four processes do it on two idle cores, for which the limits were chosen."""
WORK = """
import asyncio.base_events, argparse, ctypes, email.parser, http.client, json, logging, sqlite3, ssl, unittest.mock
for _ in range(6):
    compile(open(asyncio.base_events.__file__).read(), "work", "exec")
"""


def scaled(seconds: float) -> float:
    """Make a limit that is right on two idle cores right for this machine: multiply it by the factor of this run.

    For each limit that a test reaches, or that real work has to stay below: `MIGRATION_RUN_SECONDS=f"{scaled(2):g}"`.
    """
    return round(seconds * factor(), 3)


@cache
def factor() -> float:
    """Return how much longer work takes than on two idle cores: from 1 to `LARGEST`, measured once a run."""
    told = os.environ.get(VARIABLE) or str(_measured())
    os.environ[VARIABLE] = told
    return float(told)


def _measured() -> float:
    began = time.monotonic()
    processes = [subprocess.Popen([sys.executable, "-I", "-c", WORK]) for _ in range(AT_ONCE)]
    for process in processes:
        process.wait()
    return round(min(max((time.monotonic() - began) / USUAL_SECONDS, 1.0), LARGEST), 1)
