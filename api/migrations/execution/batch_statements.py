"""The statements of a backfill of one table: the bounds of a batch along a unique key, and the UPDATE of one batch.

Bounds are found without the author's condition: with it, a planner that expects few rows may read the whole table for
each batch. A batch is all rows from one key to the next one, and its UPDATE changes those that the condition selects.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from .dialects import estimated_rows, reads_ranges_of_rows

Key = tuple[Any, ...]
_UNTYPED = sa.types.NullType()
"""So that the server takes the type of the column, whatever Python type its driver returns."""


class BatchStatements:
    """The statements for one table.

    Args:
        table: its name, without quotes.
        schema: its schema; None is the search path's.
        key: the columns of a unique key, in their order.
        assignments: an SQL expression for each column that is set.
        where: the SQL condition for the rows to be filled.

    Raises:
        ValueError: one of them is empty, or the key is set.
    """

    def __init__(
        self, table: str, schema: str | None, key: Sequence[str], assignments: Mapping[str, str], where: str
    ) -> None:
        for name, given in (("table", table), ("key", all(key) and key), ("set", assignments), ("where", where)):
            if not given or (isinstance(given, str) and not given.strip()):
                raise ValueError(f"backfill() needs {name}. To fix: pass a value that is not empty")
        if both := {*key}.intersection(assignments):
            raise ValueError(f"backfill() cannot set {', '.join(both)} of its own key. To fix: pass another key")
        self.name = f"{schema}.{table}" if schema else table
        self._table = sa.table(table, *map(sa.column, {*key, *assignments}), schema=schema)
        self._key = [self._table.c[name] for name in key]
        self._names = (*key, *assignments)
        expressions: dict[str, Any] = {name: _expression(sql) for name, sql in assignments.items()}
        self._condition: Any = _expression(where)
        self._update = sa.update(self._table).values(expressions)
        self._row_values = True

    def everything(self, comment: str) -> sa.Update:
        """Return one UPDATE of all rows, with a comment in it."""
        return self._update.where(self._condition).prefix_with(f"/* {comment} */")

    def is_empty(self, connection: sa.Connection) -> bool:
        """Return whether the table has no row, with one quick query; it fails if the table lacks a column."""
        return connection.execute(sa.select(*self._table.c).limit(1)).first() is None

    def check(self, connection: sa.Connection) -> None:
        """Raise `ValueError` if the table lacks a column, or if the key is not unique."""
        self._row_values = reads_ranges_of_rows(connection.dialect)
        inspector, table, schema = sa.inspect(connection), self._table.name, self._table.schema
        try:
            columns = {column["name"]: column["nullable"] for column in inspector.get_columns(table, schema)}
        except sa.exc.NoSuchTableError:
            raise ValueError(f"backfill(): table {self.name} does not exist. To fix: correct its name") from None
        missing = [name for name in self._names if name not in columns]
        if missing:
            raise ValueError(
                f"backfill(): table {self.name} has no column {', '.join(missing)}; it has {', '.join(columns)}. "
                "To fix: correct the names"
            )
        key = [column.name for column in self._key]
        primary = inspector.get_pk_constraint(table, schema)["constrained_columns"]
        if key == primary:
            return
        unique: list[Any] = [one["column_names"] for one in inspector.get_unique_constraints(table, schema)]
        for index in inspector.get_indexes(table, schema):
            partial = any(option.endswith("_where") for option in index.get("dialect_options", {}))
            unique += [index["column_names"]] if index["unique"] and not partial else []
        if key not in unique or any(columns[name] for name in key):
            raise ValueError(
                f"backfill(): key ({', '.join(key)}) of table {self.name} is neither its primary key "
                f"({', '.join(primary) or 'it has none'}) nor the NOT NULL columns of a unique index, in their order. "
                "To fix: pass one of these"
            )

    def estimate(self, connection: sa.Connection) -> int | None:
        """Return how many rows the table has by the server's statistics, if it has any."""
        return estimated_rows(connection, self._table)

    def ends(self, connection: sa.Connection) -> tuple[Key, Key] | None:
        """Return the first and the last key; None if the table is empty."""
        down = [column.desc() for column in self._key]
        first = connection.execute(sa.select(*self._key).order_by(*self._key).limit(1)).first()
        last = connection.execute(sa.select(*self._key).order_by(*down).limit(1)).first()
        return None if first is None or last is None else (tuple(first), tuple(last))

    def key_after(self, connection: sa.Connection, start: Key, rows: int, last: Key) -> Key | None:
        """Return the key that follows `rows` rows from `start` on; None if it would be beyond `last`."""
        keys = sa.select(*self._key).where(self._from(), self._until(operator.le)).order_by(*self._key)
        found = connection.execute(keys.limit(1).offset(rows), self._values(start, last)).first()
        return None if found is None else tuple(found)

    def first_to_fill(self, connection: sa.Connection, start: Key, end: Key | None, last: Key) -> Key | None:
        """Return the first key of a row to be filled, from `start` to before `end`, or up to `last` without an end."""
        where = (self._from(), self._until(operator.le if end is None else operator.lt), self._condition)
        keys = sa.select(*self._key).where(*where).order_by(*self._key).limit(1)
        found = connection.execute(keys, self._values(start, end or last)).first()
        return None if found is None else tuple(found)

    def count(self, connection: sa.Connection, start: Key, end: Key) -> int:
        """Return the number of rows from `start` to before `end`."""
        rows = sa.select(sa.func.count()).select_from(self._table).where(self._from(), self._until(operator.lt))
        return int(connection.scalar(rows, self._values(start, end)) or 0)

    def fill(self, connection: sa.Connection, start: Key, end: Key | None, last: Key) -> int:
        """Fill the rows from `start` to before `end`, or up to `last` without an end; return how many."""
        where = (self._from(), self._until(operator.le if end is None else operator.lt), self._condition)
        return connection.execute(self._update.where(*where), self._values(start, end or last)).rowcount

    def _values(self, start: Key, end: Key) -> dict[str, Any]:
        return {f"{name}_{n}": value for name, key in (("start", start), ("end", end)) for n, value in enumerate(key)}

    def _from(self) -> Any:
        return self._compared("start", operator.ge, operator.gt)

    def _until(self, compare: Callable[[Any, Any], Any]) -> Any:
        return self._compared("end", compare, operator.lt)

    def _compared(self, name: str, compare: Callable[[Any, Any], Any], strict: Callable[[Any, Any], Any]) -> Any:
        values = [sa.bindparam(f"{name}_{n}", type_=_UNTYPED) for n in range(len(self._key))]
        if self._row_values and len(values) > 1:
            return compare(sa.tuple_(*self._key), sa.tuple_(*values))
        condition = compare(self._key[-1], values[-1])
        for column, value in reversed(list(zip(self._key[:-1], values[:-1], strict=True))):
            condition = strict(column, value) | ((column == value) & condition)
        return condition


def _expression(sql: str) -> sa.ColumnClause[Any]:
    # not `text`, in which a colon begins a parameter; a comment must not hide the parenthesis
    return sa.literal_column(f"({sql}\n)" if "--" in sql else f"({sql})")
