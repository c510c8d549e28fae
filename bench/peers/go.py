"""goose and golang-migrate: programs of a few lines, because goose has its session locker only as a library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.laboratory import CACHE
from bench.peers.peer import SOURCES, Peer, built, needs, numbered


def _install(folder: str, module: str) -> str:
    needs("go", "install Go 1.26 or newer; Debian's package golang-go is older")
    built(folder, ["go", "mod", "tidy"], ["go", "build", "-o", "program", "."])
    [version] = re.findall(rf"{re.escape(module)} v(\S+)", (SOURCES / folder / "go.mod").read_text())
    return str(version)


def _write_goose(folder: Path, statements: Sequence[str]) -> None:
    text = "-- +goose Up\n-- +goose StatementBegin\n{};\n-- +goose StatementEnd\n"
    numbered(folder, "{number:05}_step.sql", [text.format(statement) for statement in statements])


def _write_golang_migrate(folder: Path, statements: Sequence[str]) -> None:
    numbered(folder, "{number:06}_step.up.sql", [f"{statement};\n" for statement in statements])


GOOSE = Peer(
    "goose",
    install=lambda: _install("goose", "github.com/pressly/goose/v3"),
    write=_write_goose,
    command=lambda folder: [str(CACHE / "goose" / "program"), str(folder)],
)
GOLANG_MIGRATE = Peer(
    "golang-migrate",
    install=lambda: _install("golang_migrate", "github.com/golang-migrate/migrate/v4"),
    write=_write_golang_migrate,
    command=lambda folder: [str(CACHE / "golang_migrate" / "program"), str(folder)],
)
