"""Starts processes of `apps.crowd` and reads what became of their instances."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.errors import BenchError
from bench.laboratory import Laboratory
from bench.process import Program


class Crowd:
    """Instances of a variant, spread over processes; a context manager, which kills what still runs.

    Attributes:
        variant: `ours`, `recipe` or `poll`.
        instances: how many.
    """

    def __init__(
        self, lab: Laboratory, variant: str, environment: Mapping[str, str], instances: int, processes: int = 1
    ) -> None:
        self.variant, self.instances = variant, instances
        folder = lab.folder()
        self._files = [folder / f"{number}.json" for number in range(processes)]
        share = instances // processes
        self._programs = [
            Program(
                [sys.executable, "-m", "bench.apps.crowd", variant, str(share), str(file)],
                environment,
                Path(environment["ALEMBIC_CONFIG"]).parent,
            )
            for file in self._files
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in self._programs:
            program.end()

    def all_wait(self) -> bool:
        """Return whether all instances of this project have waited.

        Raises:
            BenchError: a process has ended before that.
        """
        if any(program.has_ended for program in self._programs):
            _, errors = self.outcomes()
            raise BenchError(f"{len(errors)} of {self.instances} waiters failed: {''.join(errors[:1])}")
        return all(Path(f"{file}.waiting").exists() for file in self._files)

    def outcomes(self) -> tuple[list[float], list[str]]:
        """Wait for the end of all, and return when each was ready, in seconds since 1970, and the errors of the others.

        Raises:
            BenchError: a process failed.
        """
        found: list[float | str] = []
        for program, file in zip(self._programs, self._files, strict=True):
            program.wait()
            if program.code != 0:
                raise BenchError(f"{program} exited with {program.code}: {program.last_words()}")
            found += json.loads(file.read_text())
        return [each for each in found if isinstance(each, float)], [each for each in found if isinstance(each, str)]
