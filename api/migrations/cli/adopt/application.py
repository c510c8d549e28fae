"""What `adopt` finds about the FastAPI application, and the change of its lifespan."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .alembic_setup import Setup
from .project import PACKAGE, Project
from .report import Change, Fact, Need

LIFESPAN = "lifespan_with_migrations"
_HANDLERS = r"(?<!router)\.on_event\(|\.add_event_handler\(|\bon_(startup|shutdown)\s*="
_ASIDE = re.compile(r"(^|/)(scripts?|tools?|bench(marks?)?|notebooks)/")
"""Folders of programs whose applications no server runs, unless a server command names them."""
_IN_PYTHON = r"(?<![A-Za-z])command\.upgrade\(|[\"']alembic[\"',\s]+upgrade\b"


@dataclass(frozen=True)
class Application:
    """One call of `FastAPI(…)`."""

    path: str
    call: ast.Call
    name: str | None
    """The variable that it is assigned to."""
    is_likely: bool = True
    """Whether it looks like one that a server starts: it is assigned or returned, and not in a script."""

    @property
    def place(self) -> str:
        """The path and the line."""
        return f"{self.path}:{self.call.lineno}"

    @property
    def module(self) -> str:
        """The end of its module's name."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def judge(project: Project, setup: Setup, served: set[tuple[str, str]]) -> tuple[list[Fact], list[Change]]:
    """Return what follows for the application; `served` are the modules and variables that server commands name."""
    found = [one for path in project.sources for one in _applications(path, project.text(path))]
    modules = [one for one in found if any(f".{one.module}".endswith(f".{module}") for module, _ in served)]
    likely = [one for one in found if one.is_likely]
    chosen = [one for one in modules if any(one.name == name for _, name in served)] or modules or likely or found
    is_clear = len(chosen) == 1 and (chosen[0] in modules or chosen[0].is_likely)
    handlers = project.matches([path for path in project.sources if "fastapi" in project.text(path)], _HANDLERS)
    facts = [Fact("app", Need.DO, _about_handler(line)) for line in handlers]
    others = [path for path in project.sources if not path.startswith(f"{setup.scripts}/")]
    for line in project.matches(others, _IN_PYTHON):
        facts.append(Fact("app", Need.MAY, f"runs Alembic from Python; where a start calls it, remove it: {line}"))
    for line in project.matches(others, r"\.create_all\b"):
        facts.append(
            Fact("app", Need.MAY, f"creates tables beside the revisions; where a start calls it, remove it: {line}")
        )
    if not found:
        return [Fact("app", Need.UNKNOWN, "no call of FastAPI(…) was found"), *facts], []
    if len(chosen) > 1:
        places = ", ".join(one.place for one in chosen)
        facts.insert(
            0, Fact("app", Need.MAY, f"several applications: {places}. To fix: change only those that a server starts")
        )
    changes = []
    for one in chosen:
        fact, change = _judge_one(project.text(one.path), one, Need.DO if is_clear else Need.MAY)
        facts.insert(0, fact)
        if change is not None:
            change.safe = is_clear and not handlers
            changes.append(change)
    return facts, changes


def _judge_one(text: str, one: Application, need: Need) -> tuple[Fact, Change | None]:
    given = next((keyword.value for keyword in one.call.keywords if keyword.arg == "lifespan"), None)
    if given is not None and LIFESPAN in ast.unparse(given):
        return Fact("app", Need.OK, f"{one.place} has {LIFESPAN}"), None
    has = "no lifespan" if given is None else f"lifespan={ast.unparse(given)}"
    wanted = LIFESPAN if given is None else f"{LIFESPAN}.then({ast.unparse(given)})"
    fact = Fact("app", need, f"{one.place} has {has}. To fix: lifespan={wanted}")
    after = with_lifespan(text, one.call)
    return fact, Change(one.path, text.encode(), after.encode(), "the lifespan that migrates") if after else None


def with_lifespan(text: str, call: ast.Call) -> str | None:
    """Return `text` with the package's lifespan in `call`, or None if the result would change anything else."""
    given = next((keyword.value for keyword in call.keywords if keyword.arg == "lifespan"), None)
    may_be_given = given is None and any(keyword.arg is None for keyword in call.keywords)
    if may_be_given or re.search("\r(?!\n)|\f", text):
        return None
    lines = text.encode().split(b"\n")
    if given is not None:
        _insert(lines, given.end_lineno, given.end_col_offset, ")")
        _insert(lines, given.lineno, given.col_offset, f"{LIFESPAN}.then(")
    else:
        _add_argument(lines, call)
    _import(lines, ast.parse(text))
    after = b"\n".join(lines).decode()
    return after if _differs_in_lifespan_only(text, after) else None


def _add_argument(lines: list[bytes], call: ast.Call) -> None:
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    if not arguments:
        _insert(lines, call.end_lineno, (call.end_col_offset or 0) - 1, f"lifespan={LIFESPAN}")
        return
    last = max(arguments, key=lambda each: (each.end_lineno or 0, each.end_col_offset or 0))
    if last.end_lineno == call.end_lineno:
        _insert(lines, last.end_lineno, last.end_col_offset, f", lifespan={LIFESPAN}")
        return
    line = lines[max(call.keywords[-1].lineno if call.keywords else last.lineno, 1) - 1].decode()
    indent = line[: len(line) - len(line.lstrip())]
    end = "\r\n" if line.endswith("\r") else "\n"
    _insert(lines, last.end_lineno, last.end_col_offset, f",{end}{indent}lifespan={LIFESPAN}")


def _insert(lines: list[bytes], line: int | None, column: int | None, text: str) -> None:
    """Insert `text` at a position of `ast`: its lines begin with 1, its columns are bytes."""
    number, at = (line or 1) - 1, column or 0
    lines[number] = lines[number][:at] + text.encode() + lines[number][at:]


def _import(lines: list[bytes], tree: ast.Module) -> None:
    # an import that follows other statements may need them
    ends, seen_other = [0], False
    for node in tree.body:
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if (is_import and not seen_other) or (is_docstring and ends == [0]):
            ends.append(node.end_lineno or node.lineno)
        seen_other = seen_other or not (is_import or is_docstring)
    end = b"\r" if lines[0].endswith(b"\r") else b""
    line = f"from {PACKAGE} import {LIFESPAN}".encode() + end
    # lines that were inserted into the call are below
    lines.insert(ends[-1], line)


def _differs_in_lifespan_only(before: str, after: str) -> bool:
    try:
        changed = _Undone().visit(ast.parse(after))
    except SyntaxError:
        return False
    return after != before and ast.dump(changed) == ast.dump(ast.parse(before))


class _Undone(ast.NodeTransformer):
    """Removes the package's lifespan again."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        """Remove the import."""
        return None if node.names[0].name == LIFESPAN else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Remove `.then(…)` and the argument."""
        self.generic_visit(node)
        if (
            isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == LIFESPAN
        ):
            return node.args[0]
        node.keywords = [k for k in node.keywords if not (isinstance(k.value, ast.Name) and k.value.id == LIFESPAN)]
        return node


def _applications(path: str, text: str) -> Iterator[Application]:
    if "FastAPI" not in text:
        return
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    nodes = list(ast.walk(tree))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    targets = {id(n.value): n.targets[0] for n in nodes if isinstance(n, ast.Assign)}
    targets |= {id(n.value): n.target for n in nodes if isinstance(n, ast.AnnAssign)}
    returned = {id(n.value) for n in nodes if isinstance(n, ast.Return)}
    mounted = {ast.unparse(argument) for call in calls if _name(call.func) == "mount" for argument in _values(call)[1:]}
    for call in calls:
        target = targets.get(id(call))
        name = ast.unparse(target) if target is not None else None
        if _name(call.func) == "FastAPI" and name not in mounted:
            is_kept = name is not None or id(call) in returned
            yield Application(path, call, name, is_kept and not _ASIDE.search(path))


def _values(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _about_handler(line: str) -> str:
    return (
        f"an application with a lifespan does not run these handlers. To fix: move them into a lifespan first: {line}"
    )
