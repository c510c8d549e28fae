"""`./dev wheel`: builds the distribution `alembic-fleet` into dist/ and prints the file's path."""

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def build(into: Path) -> Path:
    """Build the wheel in the folder `into`, offline, and return its path.

    It is built from a copy: setuptools keeps a folder build/, and would pack what was deleted from the package since.

    Raises:
        subprocess.CalledProcessError: pip or setuptools failed.
    """
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    modules = [f"{name}.py" for name in project["tool"]["setuptools"]["py-modules"]]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("pyproject.toml", project["project"]["readme"], *project["project"]["license-files"], *modules):
            shutil.copy(PROJECT / name, copy / name)
        for name in project["tool"]["setuptools"]["package-dir"].values():
            shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        subprocess.run([*pip, "--wheel-dir", str(copy / "dist"), str(copy)], check=True)
        [wheel] = (copy / "dist").iterdir()
        into.mkdir(exist_ok=True)
        return Path(shutil.copy(wheel, into))


if __name__ == "__main__":
    print(build(PROJECT / "dist"))
