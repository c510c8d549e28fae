"""Reads the revisions of a build without executing them and without Alembic, whose import costs more than a start.

The result is the one that Alembic would give, or None where the text alone does not prove that: computed ids, labels as
parents, other folders. `Revisions` then asks Alembic, which also explains what is damaged.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from configparser import ConfigParser, Error
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from math import inf
from pathlib import Path
from threading import Lock
from typing import Any

from ..core.schema import CodeRevisions

TOML = "pyproject.toml"
LIMITS = ("lock_timeout_seconds", "statement_timeout_seconds")
"""The limits that a revision may declare, in seconds."""

_MAY_CONFIGURE = re.compile(rb"(?m)^\s*(\[\s*tool\s*(\.\s*[\"']?alembic|\])|tool\s*\.|alembic\s*[.=])")
_IS_REVISION = re.compile(r"(?!\.#|__init__)(.*\.py)$")
"""The file names that Alembic reads (`alembic.script.base`)."""
_ELSEWHERE = ("version_locations", "recursive_version_locations", "sourceless")
"""The options that make Alembic read other files."""
MARKS = ("phase", "requires")
"""What a revision may declare for the releases beside it (docs/expand_contract.md)."""
_NAMES = {"*", "revision", "down_revision", "depends_on", "branch_labels", "idempotent", *LIMITS, *MARKS}
_ONE_AT_A_TIME = Lock()
_HARMLESS = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


@dataclass(frozen=True)
class RevisionFile:
    """What the package needs to know of one revision."""

    path: Path
    doc: str = ""
    """The first paragraph of its docstring."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """The limits that it declares, by their names."""


@dataclass(frozen=True)
class RevisionFiles:
    """The revisions of a build, by id, with their graph and the path of env.py."""

    code: CodeRevisions
    files: Mapping[str, RevisionFile]
    env_py: Path


class _Unclear(Exception):
    """The text does not say what Alembic would find."""


def read(ini: str, section: str) -> RevisionFiles | None:
    """Return the revisions that `section` of an ini file names; None if only Alembic can tell them."""
    try:
        folder = _script_folder(Path(ini), section)
        env_py = folder / "env.py"
        syntax_tree(env_py)
        paths = sorted(path for path in (folder / "versions").iterdir() if _IS_REVISION.match(path.name))
        return _graph([_declared(path) for path in paths], paths, env_py)
    except (_Unclear, OSError, SyntaxError, ValueError, Error, RecursionError):
        return None


def syntax_tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file, in one thread at a time.

    In two threads at once, `ast.parse` of some Pythons (3.11 is one) raises "SystemError: AST constructor recursion
    depth mismatch". The thread that migrates reads the revisions; so does the service, for the name of its sessions.
    """
    with _ONE_AT_A_TIME:
        return ast.parse(path.read_bytes())


def valid_limit(value: object) -> bool:
    """Return whether `value` is a number of seconds."""
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < inf


def marked(code: CodeRevisions, declared: Mapping[str, Mapping[str, Any]]) -> CodeRevisions:
    """Return `code` with what its revisions declare of `MARKS`; raise `WrongMark` for a wrong value."""
    contracts: dict[str, str] = {}
    for revision, names in declared.items():
        phase, requires = names.get("phase"), names.get("requires")
        if (problem := _wrong_mark(code, revision, phase, requires)) is not None:
            raise WrongMark(revision, problem)
        if isinstance(requires, str):
            contracts[revision] = requires
    expands = frozenset(revision for revision, names in declared.items() if names.get("phase") == "expand")
    return replace(code, expands=expands, contracts=contracts)


class WrongMark(ValueError):
    """A revision declares a phase that is none, or requires what it cannot require."""

    def __init__(self, revision: str, problem: str) -> None:
        super().__init__(problem)
        self.revision = revision


def _wrong_mark(code: CodeRevisions, revision: str, phase: object, requires: object) -> str | None:
    if phase not in (None, "expand", "contract"):
        return f"phase is {phase!r}. To fix: set it to 'expand' or 'contract', or remove it"
    if phase != "contract":
        mark = "without a phase" if phase is None else "with phase = 'expand'"
        fix = "set phase = 'contract', or remove requires"
        return None if requires is None else f"requires counts for a contract only, and stands {mark}. To fix: {fix}"
    which = "the revision that a build must contain to run without what this one drops"
    if not isinstance(requires, str):
        return f"phase is 'contract', and requires is {requires!r}. To fix: set requires to the id of {which}"
    if requires not in code.parents:
        return f"requires names {requires!r}, and no revision file has that id. To fix: name {which}, with its full id"
    if requires not in code.closure(code.parents[revision]):
        return f"requires names {requires!r}, which is no ancestor of {revision}. To fix: name {which}"
    return None


def first_paragraph(doc: str | None) -> str:
    """Return the first paragraph of a revision's docstring, as `alembic history` shows it."""
    return (doc or "").strip().split("\n\n")[0]


def _script_folder(ini: Path, section: str) -> Path:
    toml = ini.with_name(TOML)
    if ini.name == TOML or (toml.exists() and _may_configure(toml.read_bytes())):
        raise _Unclear
    parser = ConfigParser({"here": str(ini.absolute().parent).replace("%", "%%")})
    parser.read_string(ini.read_text(encoding="utf-8"))
    location = parser.get(section, "script_location", fallback="")
    # a package's folder has a colon, as in `package:folder`
    if not location or ":" in location or any(parser.has_option(section, name) for name in _ELSEWHERE):
        raise _Unclear
    return Path(location).absolute()


def _may_configure(toml: bytes) -> bool:
    """Return whether a `pyproject.toml` has `[tool.alembic]`; most need not be parsed for that."""
    if not _MAY_CONFIGURE.search(toml):
        return False
    from tomllib import loads

    return "alembic" in loads(toml.decode()).get("tool", {})


def _declared(path: Path) -> dict[str, Any]:
    """Return the names of `_NAMES` that a file assigns, with their values, and its docstring as `__doc__`."""
    module = syntax_tree(path)
    found: dict[str, Any] = {"__doc__": ast.get_docstring(module, clean=False)}
    for node in module.body:
        target: ast.expr | None = None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target = node.target
        if isinstance(target, ast.Name) and target.id in _NAMES and target.id not in found:
            found[target.id] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
        elif not _harmless(node) or _NAMES & _stored(node):
            raise _Unclear  # assigned twice, in a condition, or by a statement whose effect is not known
    return found


def _harmless(node: ast.stmt) -> bool:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or isinstance(node, _HARMLESS)


def _stored(node: ast.AST) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {"*"} if any(one.name == "*" for one in node.names) else {one.asname or one.name for one in node.names}
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}


def _graph(declared: list[dict[str, Any]], paths: list[Path], env_py: Path) -> RevisionFiles:
    parents: dict[str, frozenset[str]] = {}
    files: dict[str, RevisionFile] = {}
    below: set[str] = set()
    for names, path in zip(declared, paths, strict=True):
        revision = names.get("revision") if "down_revision" in names else None
        limits = {name: names[name] for name in LIMITS if name in names}
        if not isinstance(revision, str) or revision in parents or not all(map(valid_limit, limits.values())):
            raise _Unclear
        down = _ids(names.get("down_revision"))
        below.update(down)
        parents[revision] = frozenset(down + _ids(names.get("depends_on")))
        files[revision] = RevisionFile(path, first_paragraph(names["__doc__"]), limits)
    # a parent that is a label or the beginning of an id is Alembic's to resolve
    unresolved = {parent for links in parents.values() for parent in links} - parents.keys()
    if not parents or unresolved or b"version_locations" in env_py.read_bytes():
        raise _Unclear
    try:
        order = list(TopologicalSorter(parents).static_order())
    except CycleError:
        raise _Unclear from None
    idempotent = frozenset(names["revision"] for names in declared if names.get("idempotent") is True)
    heads = frozenset(parents.keys() - below)
    code = CodeRevisions({one: parents[one] for one in order}, heads, idempotent)
    return RevisionFiles(marked(code, {names["revision"]: names for names in declared}), files, env_py)


def _ids(value: object) -> tuple[str, ...]:
    ids = value if isinstance(value, tuple | list) else () if value is None else (value,)
    if not all(isinstance(one, str) and one for one in ids):
        raise _Unclear
    return tuple(ids)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
