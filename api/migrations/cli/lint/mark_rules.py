"""What a revision's mark, `phase = "expand"` or `phase = "contract"`, changes in what the rules find in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...core.schema import CodeRevisions
from .rules import RULES, Hit, hit

REMOVES = {"rename-column", "rename-table", "rename-value", "drop-column", "drop-table"}
"""What a contract is for."""
BREAKS = {*REMOVES, "required-column"}
"""The rules about the statements that the previous release cannot live with."""


def by_mark(hits: Iterable[Hit], revision: str, code: CodeRevisions) -> Iterator[Hit]:
    """Yield the hits in `revision`, without those that its mark announces, and with those that contradict its mark."""
    for one in hits:
        if revision in code.expands and one.rule in BREAKS:
            yield hit("expand-breaks", one.line, table=one.words["table"], why=RULES[one.rule].finds)
        elif not (revision in code.contracts and one.rule in REMOVES):
            yield one
