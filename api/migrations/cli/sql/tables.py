"""What is known of the tables without a database: what the statements so far have made."""

from __future__ import annotations

from collections.abc import Iterable

from .action import Action


class Tables:
    """The columns, checks and types that exist after the statements so far."""

    def __init__(self) -> None:
        self.columns: dict[str, dict[str, str]] = {}
        """The type of each column, by table."""
        self.types: set[str] = set()
        self.indexes: dict[str, str] = {}
        """The table of each index that a statement made, by the index's name."""
        self._checks: dict[tuple[str, str], tuple[str, bool]] = {}
        # the condition of each check, and whether it is validated, by table and name
        self._references: dict[tuple[str, str], str] = {}
        # the other table of each foreign key, by table and name

    def learn(self, actions: Iterable[Action]) -> None:
        """Note what the actions of a statement change."""
        for action in actions:
            self._learn_tables(action)
            self._learn_columns(action)
            self._learn_checks(action)

    def proves_not_null(self, table: str, column: str) -> bool:
        """Return whether a validated check says that `column` is not null."""
        wanted = f"{column} is not null"
        conditions = [text for (on, _), (text, is_valid) in self._checks.items() if on == table and is_valid]
        return any(wanted in _conjunction(text) for text in conditions)

    def referenced(self, table: str, constraint: str = "") -> set[str]:
        """Return the tables that a foreign key references, or all foreign keys of a table."""
        keys = self._references.items()
        return {other for (on, name), other in keys if on == table and constraint in {"", name}}

    def _learn_tables(self, action: Action) -> None:
        match action.kind:
            case "create table":
                self.columns.setdefault(action.on, {})
            case "drop table":
                self.columns.pop(action.on, None)
                self._references = {key: other for key, other in self._references.items() if key[0] != action.on}
            case "rename table":
                self.columns[action.name] = self.columns.pop(action.on, {})
                renamed = {action.on: action.name}
                self._checks = {(renamed.get(on, on), name): check for (on, name), check in self._checks.items()}
                references = self._references.items()
                self._references = {
                    (renamed.get(on, on), name): renamed.get(other, other) for (on, name), other in references
                }
            case "create index":
                self.indexes[action.name] = action.on
            case "create type":
                self.types.add(action.on)
            case "drop type":
                self.types.discard(action.on)

    def _learn_columns(self, action: Action) -> None:
        match action.kind:
            case "new column" | "add column" | "change type":
                self.columns.setdefault(action.on, {})[action.name] = action.text
            case "drop column":
                self.columns.get(action.on, {}).pop(action.name, None)
            case "rename column":
                columns = self.columns.setdefault(action.on, {})
                columns[action.text] = columns.pop(action.name, "")

    def _learn_checks(self, action: Action) -> None:
        key = action.on, action.name
        match action.kind:
            case "new foreign key" | "add foreign key":
                self._references[key] = action.refers
            case "new column" | "add column" if action.refers:
                self._references[action.on, f"{action.on}_{action.name}_fkey"] = action.refers
            case "new check" | "add check":
                self._checks[key] = action.text, "not valid" not in action.facts
            case "validate constraint" if key in self._checks:
                self._checks[key] = self._checks[key][0], True
            case "drop constraint":
                self._checks.pop(key, None)
                self._references.pop(key, None)


def _conjunction(text: str) -> list[str]:
    return [part.strip("() ") for part in text.split(" and ")]
