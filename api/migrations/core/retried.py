"""Groups the retries of a revision in the history, of which a run that waits for a table leaves many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Row = TypeVar("Row")


def retries_together(rows: Sequence[Row], facts: Callable[[Row], tuple[str, str, str]]) -> list[list[Row]]:
    """Return the rows in their order, each in a list of its own, but consecutive retries of a revision in one list.

    `facts` returns a row's revision, direction and outcome.
    """
    groups: list[list[Row]] = []
    for row in rows:
        *_, outcome = facts(row)
        if groups and outcome == "retried" and facts(row) == facts(groups[-1][-1]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
