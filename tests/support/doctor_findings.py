"""The findings of `doctor`, for tests that make one fault."""

from pathlib import Path
from typing import Any

from api.migrations.cli.doctor import examine
from api.migrations.databases.backend import Verdict
from tests.support.fakes import assembled


async def found(url: str, ini: Path, **settings: Any) -> dict[str, tuple[Verdict, str]]:
    """Run `doctor`; return verdict and message of each check."""
    return {each.check: (each.verdict, each.message) for each in await examine(assembled(url, ini, **settings))}
