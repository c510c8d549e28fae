"""A load generator for machines without Go: reads vegeta's targets from stdin and writes vegeta's CSV to a file.

`python -m bench.rollout.client RATE FILE` sends a constant number of requests each second, whether or not the earlier
ones were answered, until SIGINT; then it waits for the answers. It needs more CPU time than vegeta.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from bench.rollout.sample import BODY_BYTES, NANOSECONDS

LONGEST_SECONDS = 30.0
"""The same limit of a request as vegeta's default."""


class Client:
    """Sends requests and writes a line for each one that has ended."""

    def __init__(self, writer: Any) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(timeout=LONGEST_SECONDS, limits=limits, trust_env=False, verify=False)  # noqa: S501 - no TLS
        self._writer = writer
        self._open: set[asyncio.Task[None]] = set()

    async def attack(self, rate: float, ended: asyncio.Event) -> None:
        """Send `rate` requests each second until `ended` is set or stdin ends; then wait for the answers."""
        began = time.monotonic()
        for number, line in enumerate(sys.stdin):
            pause = began + number / rate - time.monotonic()
            if pause > 0 or number % 10 == 0:
                await asyncio.sleep(max(0.0, pause))
            if ended.is_set():
                break
            task = asyncio.create_task(self._send(number, json.loads(line)))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        await asyncio.gather(*self._open)
        await self._client.aclose()

    async def _send(self, number: int, target: dict[str, Any]) -> None:
        headers = {name: values[0] for name, values in target.get("header", {}).items()}
        body = base64.b64decode(target.get("body", ""))
        sent_at, began = time.time(), time.monotonic()
        code, error, answer = 0, "", b""
        try:
            response = await self._client.request(target["method"], target["url"], headers=headers, content=body)
            code, answer = response.status_code, response.content
            error = "" if response.is_success else f"{code} {response.reason_phrase}"
        except httpx.HTTPError as problem:
            error = f"{type(problem).__name__}: {problem}"
        took = round((time.monotonic() - began) * NANOSECONDS)
        kept = base64.b64encode(answer[:BODY_BYTES]).decode()
        row = [round(sent_at * NANOSECONDS), code, took, len(body), len(answer), error, kept, "", number]
        self._writer.writerow([*row, target["method"], target["url"], ""])


async def main(rate: float, file: Path) -> None:
    """Run until SIGINT."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, ended.set)
    # by line, because its first line says that the load has begun
    with file.open("w", buffering=1, newline="") as output:
        await Client(csv.writer(output)).attack(rate, ended)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), Path(sys.argv[2])))
