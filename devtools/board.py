"""What `./dev up` shows: a table that lives on a terminal, one plain line a change elsewhere, and the summary."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from devtools.instance import Instance

COLOURS = {"waiting": "yellow", "migrating": "cyan", "verifying": "cyan", "failed": "bold red", "exited": "bold red"}


class Board(Protocol):
    """Shows the instances while they start; a context, because a live table has to give the terminal back."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, instances: Sequence[Instance]) -> None:
        """Show them as they are now."""
        ...


class LiveBoard:
    """A table with a row for each instance, drawn again and again."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, instances: Sequence[Instance]) -> None:
        """Draw the table."""
        self._live.update(table(instances), refresh=True)


class PlainBoard:
    """A line for each change, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, instances: Sequence[Instance]) -> None:
        """Print what has changed since the last call."""
        for instance in instances:
            words = instance.report.words
            if self._shown.get(instance.name) != words:
                self._shown[instance.name] = words
                elapsed = time.monotonic() - self._started
                self._console.print(
                    f"{elapsed:6.1f} s  {instance.name}  {escape(words)}", highlight=False, soft_wrap=True
                )


def board_for(console: Console) -> Board:
    """Choose by where the output goes."""
    return LiveBoard(console) if console.is_terminal else PlainBoard(console)


def table(instances: Sequence[Instance]) -> Table:
    """Draw the instances: name, address, state, and for how long."""
    drawn = Table("Instance", "Address")
    drawn.add_column("State", min_width=32)  # wide enough for most states, so that the table does not jump
    drawn.add_column("Time", justify="right")
    for instance in instances:
        report = instance.report
        colour = "green" if report.ready else COLOURS.get(report.phase, "white")
        state = f"[{colour}]{escape(report.words)}[/]"
        drawn.add_row(instance.name, instance.url, state, f"{instance.seconds:.1f} s")
    return drawn


def summary(instances: Sequence[Instance]) -> list[str]:
    """Say who migrated, what the others did, and where to look now."""
    ready = [instance for instance in instances if instance.report.ready]
    if not ready:
        return ["", "No instance became ready."]
    addresses = [f"  {instance.name}  {instance.url}/docs" for instance in ready]
    knows = f"  What each one knows about its migration: {ready[0].url}/health/migrations"
    return ["", _who_migrated(ready), "", *addresses, "", knows]


def _who_migrated(ready: Sequence[Instance]) -> str:
    migrators = [instance for instance in ready if instance.migrated]
    if not migrators:
        return "The schema was at head already: nobody had to migrate."
    told = _listed([one.name + (f" ({one.run})" if one.run else "") for one in migrators])
    others = [instance.name for instance in ready if instance not in migrators]
    return f"{told} migrated the database" + (f"; {_listed(others)} waited and saw it finish." if others else ".")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def console() -> Console:
    """The console of this command, on standard output."""
    return Console(file=sys.stdout)
