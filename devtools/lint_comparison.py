"""Prints what `lint` and other linters find in the planted revisions of the tests, as the tables of docs/linting.md.

pip install squawk-cli alembic-guard alembic-migration-linter    # into an environment of its own
PATH=THAT_ENVIRONMENT/bin:$PATH .venv/bin/python -m devtools.lint_comparison
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from os import environ
from pathlib import Path

from tests.support.planted_faults import BASE, FAULTS, SAFE, Planted, write_history
from tests.support.project import ROOT

# of squawk, because the coordinator makes these safe: they would be found in nearly every revision
EXCLUDED = "require-lock-timeout,require-statement-timeout,prefer-robust-stmts"

Find = Callable[[Path, Path, Planted, str], Iterable[str]]


def ours(folder: Path, _file: Path, planted: Planted, _before: str) -> Iterable[str]:
    """Return the rules of this package that find something in a revision."""
    report = json.loads(output(folder, sys.executable, "-m", "api.migrations", "lint", planted.id, "--json"))
    return [finding["rule"] for finding in report["findings"]]


def squawk(folder: Path, _file: Path, planted: Planted, before: str) -> Iterable[str]:
    """Return the rules of squawk, for the SQL that `alembic upgrade --sql` prints."""
    sql = folder / "upgrade.sql"
    sql.write_text(output(folder, sys.executable, "-m", "alembic", "upgrade", f"{before}:{planted.id}", "--sql"))
    found = json.loads(output(folder, "squawk", "--reporter", "json", f"--exclude={EXCLUDED}", str(sql)) or "[]")
    return [one["rule_name"] for one in found]


def guard(folder: Path, file: Path, _planted: Planted, _before: str) -> Iterable[str]:
    """Return the rules of alembic-guard."""
    return [one["name"] for one in json.loads(output(folder, "alembic-guard", "--format", "json", str(file)) or "[]")]


def migration_linter(folder: Path, _file: Path, planted: Planted, _before: str) -> Iterable[str]:
    """Return the rules of alembic-migration-linter, errors and warnings."""
    text = output(folder, "alembic-lint", "-c", "alembic.ini", "-r", planted.id, "--no-cache")
    return re.findall(r"(?m)^\t(\w+)", text)


LINTERS: dict[str, Find] = {
    "`lint`": ours,
    "squawk": squawk,
    "alembic-guard": guard,
    "alembic-migration-linter": migration_linter,
}


def output(folder: Path, *command: str) -> str:
    """Run a command in the folder of the history and return what it prints, whatever its exit code."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
    }
    return subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True).stdout


def print_table(first: str, planted: Sequence[Planted]) -> None:
    """Print what each linter finds in each revision, and in how many of them it finds something."""
    counts: dict[str, int] = defaultdict(int)
    print(f"| {first} | {' | '.join(LINTERS)} |\n|{'---|' * (len(LINTERS) + 1)}")
    with tempfile.TemporaryDirectory() as folder:
        write_history(Path(folder), BASE, *planted)
        for number, one in enumerate(planted):
            before = planted[number - 1].id if number else BASE.id
            file = Path("alembic/versions") / f"{number + 1:02}_{one.id}.py"
            cells = []
            for name, find in LINTERS.items():
                rules = sorted(set(find(Path(folder), file, one, before)))
                counts[name] += bool(rules)
                cells.append(", ".join(rules) or "–")
            print(f"| {one.id} | {' | '.join(cells)} |")
    print(f"| **of {len(planted)}** | {' | '.join(f'**{counts[name]}**' for name in LINTERS)} |\n")


if __name__ == "__main__":
    print_table("Fault", FAULTS)
    print_table("Safe revision", SAFE)
