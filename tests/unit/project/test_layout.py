"""The package has few modules and layers, and only databases/ depends on the kind of database."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "api" / "migrations"
MOST_ROOMS, MOST_LAYERS = 22, 9


def test_the_package_has_few_modules_and_few_layers() -> None:
    """The linter's layers name every module and folder at the top of the package, and their number is limited."""
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract.get("containers") == ["api.migrations"]]
    named = {room for layer in layers for room in layer.split(" | ")}
    assert named == rooms - {"__init__"}
    assert len(named) <= MOST_ROOMS
    assert len(layers) <= MOST_LAYERS


def test_only_databases_depend_on_the_dialect() -> None:
    """Outside `databases/` only two files read a dialect's name."""
    asks = re.compile(r"dialect\.name\b|dialect *(?:==|!=|in\b|not in\b)")
    others = [path for path in PACKAGE.rglob("*.py") if not {"databases", "urls"} & {*path.relative_to(PACKAGE).parts}]
    assert {path.name for path in others if asks.search(path.read_text())} == {"dialects.py", "env_search_path.py"}


def test_every_folder_says_what_it_is_for() -> None:
    """The `__init__.py` of each folder has a docstring."""
    folders = [path for path in PACKAGE.rglob("__init__.py") if not path.read_text().startswith('"""')]
    assert folders == []
