"""The load: a generator that sends requests at a constant rate, so that a stall shows as latency and not as a pause."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from types import TracebackType
from typing import Self

from bench.errors import BenchError, Skipped
from bench.held import until
from bench.laboratory import CACHE, ROOT
from bench.peers.peer import built
from bench.process import Program
from bench.rollout.sample import BODY_BYTES, Sample, samples

VEGETA = "github.com/tsenart/vegeta/v12@v12.13.0"
INSTEAD = "A Python program sends the requests instead, which takes CPU time from the instances."


@dataclass(frozen=True)
class Generator:
    """A load generator: vegeta, or without its path the Python program of this folder."""

    vegeta: Path | None = None

    @property
    def name(self) -> str:
        """The name for the report."""
        return VEGETA.rpartition("/")[0].rpartition("/")[2] if self.vegeta else "Python (httpx)"

    def attack(self, rate: int, file: Path) -> list[str]:
        """Return the command that sends the requests on stdin and writes the results to `file`, until SIGINT."""
        if self.vegeta is None:
            return [sys.executable, "-m", "bench.rollout.client", str(rate), str(file)]
        # without kept connections, on which Go silently repeats a request that the server did not answer
        options = [
            "-lazy",
            "-format=json",
            f"-rate={rate}/s",
            "-duration=0",
            "-keepalive=false",
            f"-max-body={BODY_BYTES}",
        ]
        return [str(self.vegeta), "attack", *options, f"-output={file}"]

    def read(self, file: Path) -> list[Sample]:
        """Read the results."""
        if self.vegeta is None:
            return samples(file.read_text().splitlines())
        encode = [str(self.vegeta), "encode", "--to=csv", str(file)]
        return samples(subprocess.run(encode, capture_output=True, text=True, check=True).stdout.splitlines())


def generator() -> Generator:
    """Return vegeta, which is installed into .data/bench unless it is; where that fails return the Python program."""
    folder = CACHE / "vegeta"
    try:
        return Generator(built(folder.name, ["env", f"GOBIN={folder}", _go(), "install", VEGETA]) / "vegeta")
    except Skipped as reason:
        print(f"vegeta is {reason}. {INSTEAD}", flush=True)
        return Generator()


def _go() -> str:
    # where go.dev's archive puts it
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if found is None:
        raise Skipped("go is not installed", "install Go 1.22 or newer; Debian's package golang-go may be older")
    return found


class Load:
    """A running load generator; a context manager.

    Attributes:
        samples: the requests, once the block has ended.
    """

    def __init__(self, generator: Generator, requests: Iterator[str], rate: int, folder: Path) -> None:
        self.samples: list[Sample] = []
        self._generator, self._requests = generator, requests
        self._results = folder / "results"
        reading, self._writing = os.pipe()
        # a proxy of the environment is none of the service's
        own = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        words = generator.attack(rate, self._results)
        self._program = Program(words, {**own, "PYTHONPATH": str(ROOT)}, folder, stdin=reading)
        os.close(reading)
        self._feeder = threading.Thread(target=self._feed, name="load", daemon=True)

    def __enter__(self) -> Self:
        """Return when the first request was answered: the generator needs a moment to start."""
        self._feeder.start()
        until(lambda: self._program.has_ended or self._has_results(), "the first request is answered")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error:
            self._program.end()
        self._program.send(SIGINT)
        self._program.wait()
        self._feeder.join()
        if error is None:
            self.samples = self._generator.read(self._results)
            if not self.samples:
                raise BenchError(f"{self._program} sent nothing: {self._program.last_words()}")

    def _has_results(self) -> bool:
        return self._results.exists() and self._results.stat().st_size > 0

    def _feed(self) -> None:
        with suppress(BrokenPipeError), os.fdopen(self._writing, "w") as pipe:
            for line in self._requests:
                pipe.write(f"{line}\n")
                pipe.flush()
