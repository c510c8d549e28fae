"""One of the version tables that a start or a command brings to a revision; most projects have one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .decision import Policy
from .protocols import MigrationSession
from .schema import CodeRevisions

T = TypeVar("T")


@dataclass(frozen=True)
class Scope:
    """One version table: its sessions, this build's revisions for it, and the policy of its settings."""

    sessions: Callable[[], MigrationSession]
    code: CodeRevisions
    policy: Policy
    name: str | None = None
    """Its name for people, "schema shop" or "database orders", if there are several."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The fields of `Status` that differ between scopes, such as the lock's key."""


def by_kind(scopes: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Return `{"schemas": {"shop": …}}` for scopes with names such as "schema shop"; `{}` for none."""
    kinds: dict[str, dict[str, T]] = {}
    for scope, value in scopes.items():
        kind, _, name = scope.partition(" ")
        kinds.setdefault(f"{kind}s", {})[name] = value
    return kinds
