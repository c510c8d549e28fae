"""What `adopt` finds in env.py: how it connects, the lock of typed commands, its own lock, and the version table."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import PurePosixPath

from ...errors import COMMAND
from .alembic_setup import Setup, fleet
from .project import IS_INSTALLED, PACKAGE, Project
from .report import Change, Fact, Need

_ENGINES = {
    "create_engine",
    "create_async_engine",
    "engine_from_config",
    "async_engine_from_config",
    "connect",
    "begin",
}
_LOCK = r"(?i)pg_(try_)?advisory_|\bGET_LOCK\b|\bRELEASE_LOCK\b|\bsp_getapplock\b"
_BEGIN = r"\.begin\(\)"
_THREE_LINES = (
    f"these lines instead: from {PACKAGE}.environment import run_env | from your.models import Base | "
    "run_env(Base.metadata)"
)


class Shape(StrEnum):
    """How env.py connects."""

    RUN_ENV = "run_env"
    GIVEN = "given"
    OWN = "own"
    MULTIDB = "multidb"
    UNKNOWN = "unknown"


def judge(project: Project, setup: Setup) -> tuple[Shape, list[Fact], list[Change]]:
    """Return the shape of env.py, and what follows from its text."""
    path = setup.env_py
    if path is None:
        return Shape.UNKNOWN, [], []
    text = project.text(path)
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        return Shape.UNKNOWN, [Fact("env.py", Need.UNKNOWN, f"{path} does not parse: {type(error).__name__}")], []
    if not text:
        return Shape.UNKNOWN, [Fact("env.py", Need.DO, f"{path} does not exist, is empty, or is not UTF-8")], []
    shape = _shape(tree)
    locks = project.matches([path], _LOCK)
    begun = project.matches([path], _BEGIN) if shape in {Shape.GIVEN, Shape.OWN} else []
    about_lines = [*map(_about_lock, locks), *map(_about_transaction, begun)]
    changes = _without_locks(path, text, tree) if locks and not PurePosixPath(path).is_absolute() else []
    changes += _typed(project, shape, setup, is_safe=not begun)
    return shape, [_about(shape, setup), *about_lines, *_tables(tree)], changes


_ABOUT = {
    Shape.RUN_ENV: (Need.OK, "calls run_env"),
    Shape.GIVEN: (Need.OK, "uses the connection that it is given"),
    Shape.OWN: (Need.MAY, "opens a connection of its own, which may stay on PostgreSQL, MySQL, MariaDB and SQLite"),
    Shape.MULTIDB: (
        Need.MAY,
        "migrates several databases (Alembic's template multidb), which may stay on PostgreSQL and is refused on other "
        "databases. DATABASE_URL must name one of them",
    ),
    Shape.UNKNOWN: (Need.UNKNOWN, f"its text does not show how it connects. To fix: run '{COMMAND} doctor'"),
}


def _about(shape: Shape, setup: Setup) -> Fact:
    need, how = _ABOUT[shape]
    typed = "`alembic upgrade head` typed by hand acquires the lock"
    if shape is Shape.RUN_ENV or setup.has_fleet:
        return Fact("env.py", need, f"{how}; {typed} too")
    if shape is Shape.UNKNOWN:
        return Fact("env.py", need, how)
    line = f"`fleet = true` in [{setup.section}] of {setup.config}"
    return Fact("env.py", need, f"{how}; {typed} only with {line if IS_INSTALLED else _THREE_LINES}")


def _typed(project: Project, shape: Shape, setup: Setup, *, is_safe: bool) -> list[Change]:
    """Return the change that lets typed commands acquire the lock, if the plugin can do it."""
    change = fleet(project, setup) if IS_INSTALLED and shape not in {Shape.RUN_ENV, Shape.UNKNOWN} else None
    if change is None:
        return []
    change.safe = change.safe and is_safe
    return [change]


def _shape(tree: ast.AST) -> Shape:
    nodes = list(ast.walk(tree))
    calls = {str(getattr(n.func, "attr", None) or getattr(n.func, "id", "")) for n in nodes if isinstance(n, ast.Call)}
    if "run_env" in calls:
        return Shape.RUN_ENV
    if re.search(r"\.attributes(\.\w+\(|\[)'connection'", ast.unparse(tree)):
        return Shape.GIVEN
    if not calls & _ENGINES:
        return Shape.UNKNOWN
    arguments = {keyword.arg for node in nodes if isinstance(node, ast.Call) for keyword in node.keywords}
    return Shape.MULTIDB if "engine_name" in arguments else Shape.OWN


def _about_lock(line: str) -> Fact:
    return Fact("env.py", Need.DO, f"has its own lock, which the package's lock replaces. To fix: remove it: {line}")


def _about_transaction(line: str) -> Fact:
    message = f"begins a transaction, which is refused if it surrounds the revisions. To fix: remove it then: {line}"
    return Fact("env.py", Need.MAY, message)


def _tables(tree: ast.AST) -> Iterator[Fact]:
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and _called(n) in {"configure", "run_env"}]
    given = {keyword.arg: keyword.value for call in calls for keyword in call.keywords}
    names = [(name, given[name]) for name in ("version_table", "version_table_schema") if name in given]
    if not names:
        yield Fact(
            "table", Need.OK, "env.py names no version table, so it is MIGRATION_VERSION_TABLE, or alembic_version"
        )
    for name, value in names:
        if isinstance(value, ast.Constant):
            yield Fact("table", Need.OK, f"{name} is {value.value!r}; the package uses it")
        else:
            yield Fact("table", Need.UNKNOWN, f"env.py computes {name}; '{COMMAND} doctor' shows it")
    per_migration = given.get("transaction_per_migration")
    if isinstance(per_migration, ast.Constant) and per_migration.value is False:
        yield Fact("env.py", Need.DO, "passes transaction_per_migration=False, which is refused. To fix: remove it")


def _called(call: ast.Call) -> str:
    return str(getattr(call.func, "attr", None) or getattr(call.func, "id", ""))


def _without_locks(path: str, text: str, tree: ast.AST) -> list[Change]:
    """Return the change that removes the statements of the lock, if each is a whole statement beside others."""
    lines = text.splitlines(keepends=True)
    for node in ast.walk(tree):
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            statements = [each for each in body if isinstance(each, ast.Expr)] if isinstance(body, list) else []
            for each in statements:
                if re.search(_LOCK, ast.get_source_segment(text, each) or "") and len(body or ()) > 1:
                    lines[each.lineno - 1 : each.end_lineno] = [""] * (
                        (each.end_lineno or each.lineno) - each.lineno + 1
                    )
    after = "".join(lines)
    try:
        ast.parse(after)
    except SyntaxError:
        return []
    return [] if after == text else [Change(path, text.encode(), after.encode(), "without its own lock")]
