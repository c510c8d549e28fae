"""One request of the load and what became of it, as vegeta writes it in CSV."""

from __future__ import annotations

import base64
import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

NANOSECONDS = 1e9
BODY_BYTES = 300
"""How much of an answer is kept, to name its problem."""

DIFFERENT = re.compile(r'^\w+ "[^"]*": |:\d+')
TITLE = re.compile(r'"title": ?"([^"]+)"')


@dataclass(frozen=True)
class Sample:
    """A request.

    Attributes:
        at: when it was sent, in seconds since 1970.
        seconds: until its answer, or until it failed.
        code: the HTTP status; 0 without an answer.
        problem: what failed, in words; empty for a request that succeeded.
        request: method and path.
    """

    at: float
    seconds: float
    code: int
    problem: str
    request: str

    @property
    def failed(self) -> bool:
        """Whether the client did not get what it asked for."""
        return not 200 <= self.code < 300

    @property
    def kind(self) -> str:
        """The failure without the request and the port, in which two failures of one kind differ."""
        return f"{self.code or 'no answer'}: {DIFFERENT.sub('', self.problem)}"

    @classmethod
    def of(cls, row: Sequence[str]) -> Self:
        """Read a line of `vegeta encode --to csv`."""
        at, code, latency, _sent, _received, error, body, _name, _number, method, url, *_ = row
        # a problem document has a title; haproxy's own answer is a page of one line
        text = base64.b64decode(body).decode(errors="replace")
        title = TITLE.search(text)
        problem = "" if code.startswith("2") else (title.group(1) if title else error or text)
        return cls(
            int(at) / NANOSECONDS, int(latency) / NANOSECONDS, int(code), problem, f"{method} {urlsplit(url).path}"
        )


def samples(lines: Iterable[str]) -> list[Sample]:
    """Read the requests from CSV, in the order in which they were sent."""
    return sorted((Sample.of(row) for row in csv.reader(lines)), key=lambda sample: sample.at)
