"""A process that posts one transaction several times at once: `python -m tests.integration.ledger_poster`.

It prints "ready", waits for a line, and prints the answer to each request.
"""

import asyncio
import json
import sys

from tests.integration.ledger_client import ledger_client


async def main(url: str, key: str, body: str, times: int) -> None:
    """Post when a line arrives, and print status and text of each answer as JSON."""
    async with ledger_client(url) as client:
        await client.http.get("/transactions")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        answers = await asyncio.gather(*(client.post(json.loads(body), key=key) for _ in range(times)))
        sys.stdout.write(json.dumps([[answer.status_code, answer.text] for answer in answers]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
