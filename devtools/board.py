"""The output of `./dev up`: a live table on a terminal, otherwise one line for each change, and the summary."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from devtools.fleet import listed
from devtools.instance import Instance
from devtools.ports import user_of

COLOURS = {"waiting": "yellow", "migrating": "cyan", "verifying": "cyan", "failed": "bold red", "exited": "bold red"}

LEAST_STATE, BESIDE_STATE = 30, 50
"""The columns that the state needs, and those that the rest of the table takes."""


class Board(Protocol):
    """Shows the instances while they start; a context manager, because a live table must restore the terminal."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, instances: Sequence[Instance]) -> None:
        """Show the current state of the instances."""
        ...


class LiveBoard:
    """A live table with a row for each instance."""

    def __init__(self, console: Console) -> None:
        self._width = console.width
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, instances: Sequence[Instance]) -> None:
        """Draw the table."""
        self._live.update(table(instances, self._width), refresh=True)


class PlainBoard:
    """Prints one line for each change, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, instances: Sequence[Instance]) -> None:
        """Print the instances that have changed since the last call."""
        for instance in instances:
            words = instance.report.words
            if self._shown.get(instance.name) != words:
                self._shown[instance.name] = words
                elapsed = time.monotonic() - self._started
                self._console.print(
                    f"{elapsed:6.1f} s  {instance.name}  {escape(words)}", highlight=False, soft_wrap=True
                )


def board_for(console: Console) -> Board:
    """Return the live table for a terminal, plain lines for anything else."""
    return LiveBoard(console) if console.is_terminal else PlainBoard(console)


def table(instances: Sequence[Instance], width: int) -> Table:
    """Return the table: name, address, state and time of each instance, in `width` columns if they suffice."""
    drawn = Table("Instance", "Address")
    # wide enough for most states, so that the table does not jump; one line, because the full error follows below
    most = max(LEAST_STATE, width - BESIDE_STATE)
    drawn.add_column("State", min_width=LEAST_STATE, max_width=most, no_wrap=True, overflow="ellipsis")
    drawn.add_column("Time", justify="right")
    for instance in instances:
        report = instance.report
        colour = "green" if report.ready else COLOURS.get(report.phase, "white")
        state = f"[{colour}]{escape(report.words)}[/]"
        drawn.add_row(instance.name, instance.url, state, f"{instance.seconds:.1f} s")
    return drawn


def summary(instances: Sequence[Instance], first_port: int, found: Sequence[str] = ()) -> list[str]:
    """Return the lines of the summary: which instance migrated, the problems `found`, and the addresses."""
    ready = [instance for instance in instances if instance.report.ready]
    lines = ["", _who_migrated(ready) if ready else "No instance became ready.", *after_blank(found)]
    lines += after_blank([f"  {instance.name}  {instance.url}/docs" for instance in ready])
    # a failed instance that stays up has its page too
    up = ready or [instance for instance in instances if instance.report.phase == "failed"]
    lines += after_blank([f"  The state of the migration: {instance.url}/health/migrations" for instance in up[:1]])
    return lines + after_blank(_moved(instances, first_port))


def after_blank(lines: Sequence[str]) -> list[str]:
    """Return the lines with an empty one before them, if there are any."""
    return ["", *lines] if lines else []


def _moved(instances: Sequence[Instance], first_port: int) -> list[str]:
    """Return which processes have the ports that the instances would have had, if they do."""
    ports = [instance.port for instance in instances]
    by_user: dict[str, list[str]] = {}
    for port in sorted(set(range(first_port, max(ports))) - set(ports)):
        by_user.setdefault(user_of(port), []).append(str(port))
    if not by_user:
        return []
    taken = listed([f"{listed(numbers)} by {user}" for user, numbers in by_user.items()])
    return [f"  In use: {taken}. The API listens on {listed([str(port) for port in ports])}."]


def _who_migrated(ready: Sequence[Instance]) -> str:
    migrators = [instance for instance in ready if instance.migrated]
    if not migrators:
        return "The schema was already at head: no instance migrated."
    told = listed([one.name + (f" ({one.run})" if one.run else "") for one in migrators])
    others = [instance.name for instance in ready if instance not in migrators]
    return f"{told} migrated the database" + (f"; {listed(others)} waited and saw it finish." if others else ".")


def console() -> Console:
    """Return the console on standard output."""
    return Console(file=sys.stdout)
