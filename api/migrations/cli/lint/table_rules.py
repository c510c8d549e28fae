"""The rules about one statement: the lock that it takes on an existing table, and what the old release misses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from ..sql.action import Action
from ..sql.rendering import Statement
from ..sql.tables import Tables
from ..sql.tokens import Token
from .rules import Hit, hit

_STABLE = set(
    "now current_timestamp current_date current_time localtimestamp localtime transaction_timestamp "
    "statement_timestamp timezone date_trunc date_part extract make_date make_interval make_timestamptz "
    "to_timestamp to_date to_char age coalesce nullif greatest least cast lower upper concat trim replace "
    "substring length md5 abs round floor ceil array array_fill jsonb_build_object jsonb_build_array "
    "json_build_object json_build_array to_json to_jsonb current_setting current_user current_schema session_user "
    "txid_current pg_current_xact_id interval row in and or not case when then else end is date time timestamp "
    "varchar char character bit numeric decimal".split()
)
"""Functions that are not volatile, and words that may come before parentheses."""
_VOLATILE = re.compile(
    r"random|random_normal|clock_timestamp|timeofday|nextval|setval|currval|lastval|gen_random_\w+|uuid\w*"
)
_REWRITES = re.compile(r"set (unlogged|logged|access method)|cluster on")
_REFERENCED, _ITSELF = " and of the table that it references", " and its readers"
_SAFE_WAYS = (
    ({"create index", "reindex"}, "concurrently", "index-not-concurrent"),
    ({"add foreign key", "add check"}, "not valid", "constraint-validates"),
    ({"add unique", "add primary key", "add exclude"}, "using index", "unique-without-index"),
)
"""The actions that have a safe way, the word that makes them safe, and the rule."""
_SIZED = re.compile(
    r"(varchar|character varying|bit varying|varbit|numeric|decimal|timestamp|timestamptz)(\(\d+(,\d+)?\))?"
)
_SAME = {"character varying": "varchar", "bit varying": "varbit", "decimal": "numeric"}


def check(statement: Statement, known: Tables, created: set[str]) -> Iterator[Hit]:
    """Yield the hits of a statement; `known` is the state before it, `created` the tables of its revision."""
    for action in statement.actions:
        yield from _concurrency(action, statement)
        if action.on not in created:
            yield from _lock(action, statement, known)
            yield from _release(action, statement.line)


def concurrent(action: Action) -> bool:
    """Return whether the action must not be in a transaction."""
    return "concurrently" in action.facts or action.kind == "vacuum"


def _concurrency(action: Action, statement: Statement) -> Iterator[Hit]:
    if concurrent(action) and statement.transaction is not None:
        yield hit("concurrent-in-transaction", statement.line, table=action.on or action.name)


def _lock(action: Action, statement: Statement, known: Tables) -> Iterator[Hit]:
    why = _rewrite(action, known.columns.get(action.on, {}).get(action.name) or statement.was)
    if why:
        yield hit("table-rewrite", statement.line, table=action.on or "the vacuumed tables", why=why)
    if action.kind == "add column":
        yield from _new_column(action, statement.line)
    proven = known.proves_not_null(action.on, action.name)
    if action.kind == "set not null" and "not valid" not in action.facts and not proven:
        yield hit("set-not-null", statement.line, table=action.on, column=action.name)
    for kinds, safe, rule in _SAFE_WAYS:
        if action.kind in kinds and safe not in action.facts:
            readers = _REFERENCED if action.kind == "add foreign key" else _ITSELF
            yield hit(rule, statement.line, table=action.on, readers=readers)


def _rewrite(action: Action, before: str) -> str:
    """Return why the action rewrites its table; "" if it does not."""
    match action.kind:
        case "change type" if not keeps_rows(before, action):
            return f"{before or 'its type'} to {action.text}"
        case "alter table" if _REWRITES.match(action.text):
            return action.text.upper()
        case "cluster":
            return "CLUSTER"
        case "vacuum" if "full" in action.facts:
            return "VACUUM FULL"
    return ""


def _new_column(action: Action, line: int) -> Iterator[Hit]:
    table, facts = action.on, action.facts
    why = _volatile(action.default)
    if "identity" in facts:
        why = f"each row gets a value of the sequence of {action.name}"
    if "stored" in facts:
        yield hit("table-rewrite", line, table=table, why=f"{action.name} is a stored generated column")
    elif why:
        yield hit("volatile-default", line, table=table, why=why)
    elif "check" in facts:
        yield hit("constraint-validates", line, table=table, readers=_ITSELF)
    if "references" in facts and "default" in facts:
        yield hit("constraint-validates", line, table=table, readers=_REFERENCED)
    if "unique" in facts:
        yield hit("unique-without-index", line, table=table)
    if "not null" in facts and not facts & {"default", "identity", "stored"}:
        yield hit("required-column", line, table=table, column=action.name)


def _release(action: Action, line: int) -> Iterator[Hit]:
    if action.kind in {"rename column", "rename table", "rename value", "drop column", "drop table"}:
        yield hit(action.kind.replace(" ", "-"), line, table=action.on, column=action.name)


def _volatile(default: Sequence[Token]) -> str:
    """Return why a default is computed for each row; "" if it is not."""
    for token, following in pairwise(default):
        if token.kind != "word" or following.text != "(" or token.text in _STABLE:
            continue
        if _VOLATILE.fullmatch(token.text):
            return f"{token.text}() gives another value for each row"
        return f"{token.text}() may give another value for each row, unless it is declared STABLE or IMMUTABLE"
    return ""


def keeps_rows(before: str, action: Action) -> bool:
    """Return whether PostgreSQL changes the type `before` without a rewrite, as documented for these types."""
    using = next((fact.removeprefix("using ") for fact in action.facts if fact.startswith("using ")), "")
    if using.replace("::" + action.text, "") not in {"", action.name}:
        return False
    old, new = _sized(before), _sized(action.text)
    if old is None or new is None:
        return bool(before) and before == action.text
    (name, size), (new_name, new_size) = old, new
    if name == "numeric" and size and new_size:
        return name == new_name and new_size[0] >= size[0] and new_size[1:] == size[1:]
    longer = not new_size or (bool(size) and new_size >= size)
    return longer and (new_name == name or {name, new_name} == {"varchar", "text"})


def _sized(type_name: str) -> tuple[str, list[int]] | None:
    if type_name == "text":
        return "text", []
    match = _SIZED.fullmatch(type_name)
    if match is None:
        return None
    numbers = [int(number) for number in re.findall(r"\d+", match[2] or "")]
    name = _SAME.get(match[1], match[1])
    # NUMERIC(10) is NUMERIC(10, 0)
    return name, [*numbers, 0] if name == "numeric" and len(numbers) == 1 else numbers
