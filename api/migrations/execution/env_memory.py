"""What Alembic remembers within a run, kept over the attempts that a run may take.

Alembic notes in its context which types it has created (`DefaultImpl.memo`), so that a second table with the same Enum
does not create the type again. Each attempt has a context of its own: without this, a history that plain Alembic
upgrades would fail after a table lock had to be asked for again.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from alembic.runtime.migration import MigrationContext

from .steps import Plan, Step


class EnvMemory:
    """The memo of one order: what was committed is kept, what was rolled back is forgotten."""

    def __init__(self) -> None:
        self._memo: dict[Any, Any] = {}
        self._committed: dict[Any, Any] = {}

    def keep(self) -> None:
        """Everything so far is committed."""
        self._committed = deepcopy(self._memo)

    def roll_back(self) -> None:
        """What came after the last `keep` is not there any more."""
        self._memo = deepcopy(self._committed)

    def around(self, plan: Plan, *, each: bool) -> Plan:
        """`plan` with this memo in its context.

        Args:
            plan: of one attempt.
            each: whether each of its steps is committed by itself; else they are all committed at the end.
        """

        def steps(heads: Any, migration_context: MigrationContext | None) -> Iterator[Step]:
            assert migration_context is not None
            migration_context.impl.memo = self._memo
            for step in plan(heads, migration_context):
                yield step
                # Alembic asks for the next one once this one is committed
                if each:
                    self.keep()

        return steps
