"""Keeps Alembic's memo over the attempts of a run.

Alembic remembers the types that it created (`DefaultImpl.memo`), so that a second table with the same Enum does not
create the type again. Each attempt has its own context: without this module, revisions that plain Alembic can run would
fail after a retry.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

    from .steps import AlembicStep, StepPlan


class EnvMemory:
    """The memo of one request: entries of committed revisions stay, those of rolled-back revisions are removed."""

    def __init__(self) -> None:
        self._memo: dict[Any, Any] = {}
        self._committed: dict[Any, Any] = {}

    def keep(self) -> None:
        """Keep all entries: their revisions are committed."""
        self._committed = deepcopy(self._memo)

    def roll_back(self) -> None:
        """Remove the entries since the last `keep`: their revisions were rolled back."""
        self._memo = deepcopy(self._committed)

    def around(self, plan: StepPlan, *, each: bool) -> StepPlan:
        """Return the plan of one attempt with this memo; `each` says that every step is committed on its own."""

        def steps(heads: Any, migration_context: MigrationContext | None) -> Iterator[AlembicStep]:
            assert migration_context is not None
            migration_context.impl.memo = self._memo
            for step in plan(heads, migration_context):
                yield step
                # Alembic requests the next step after it has committed this one
                if each:
                    self.keep()

        return steps
