"""Flyway, by its Java API, with migrations in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.laboratory import CACHE
from bench.peers.peer import Peer, built, needs, numbered

TARGET = CACHE / "flyway" / "target"


def _install() -> str:
    needs("javac", "apt-get install default-jdk-headless maven")
    needs("mvn", "apt-get install default-jdk-headless maven")
    built("flyway", ["mvn", "--quiet", "--batch-mode", "compile", "dependency:copy-dependencies"])
    [core] = (TARGET / "dependency").glob("flyway-core-*.jar")
    return core.stem.removeprefix("flyway-core-")


def _write(folder: Path, statements: Sequence[str]) -> None:
    numbered(folder, "V{number}__step.sql", [f"{statement};\n" for statement in statements])


FLYWAY = Peer(
    "Flyway",
    install=_install,
    write=_write,
    command=lambda folder: ["java", "-cp", f"{TARGET / 'classes'}:{TARGET / 'dependency'}/*", "Main", str(folder)],
)
