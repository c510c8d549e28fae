"""Judges `env.py` by its text, for a start that does not execute it."""

from __future__ import annotations

import ast
from pathlib import Path

from .revision_files import syntax_tree


def may_run_several(path: Path) -> bool:
    """Whether `env.py` may run several version tables or other folders of revisions, judged by its text.

    If so, the settings' version table does not prove that the database is at head. The signs are a loop, more runs than
    its two modes (online, offline) need, a choice of folders, or no run at all, which leaves it to another module.
    """
    try:
        tree = syntax_tree(path)
    except (OSError, SyntaxError, ValueError):
        return True  # executing it reports the error
    nodes = list(ast.walk(tree))
    calls = [_name(node) for node in nodes if isinstance(node, ast.Call)]
    run_env, run_migrations = calls.count("run_env"), calls.count("run_migrations")
    has_loop = any(isinstance(node, ast.For | ast.AsyncFor | ast.While) for node in nodes)
    chooses_folders = any(_mentions(node, "version_locations") for node in nodes)
    return has_loop or chooses_folders or not (run_env or run_migrations) or run_env > 1 or run_migrations > 2


def _name(call: ast.Call) -> str:
    return str(getattr(call.func, "attr", None) or getattr(call.func, "id", ""))


def _mentions(node: ast.AST, word: str) -> bool:
    return word in (getattr(node, "attr", None), getattr(node, "value", None), getattr(node, "arg", None))
