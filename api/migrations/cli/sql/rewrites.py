"""Which changes rewrite a table: PostgreSQL writes all rows anew, under a lock that readers wait for.

As documented for ALTER TABLE ("Notes"), CLUSTER and VACUUM.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from .action import Action
from .tokens import Token

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
_REWRITES = re.compile(r"set (unlogged|logged|access method)")
_SIZED = re.compile(
    r"(varchar|character varying|bit varying|varbit|numeric|decimal|timestamp|timestamptz)(\(\d+(,\d+)?\))?"
)
_SAME = {"character varying": "varchar", "bit varying": "varbit", "decimal": "numeric"}


def rewrite(action: Action, before: str) -> str:
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


def volatile(default: Sequence[Token]) -> str:
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
