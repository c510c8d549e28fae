"""Which program installs packages, and which database server is used, on a machine that has some of them."""

from pathlib import Path

import pytest

from devtools import installed_postgres, installer
from devtools.account import Account
from devtools.installed_postgres import choose, installed
from devtools.installer import installers


def program(path: Path, line: str) -> Path:
    """Write a program that prints a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{line}'\n")
    path.chmod(0o755)
    return path


def test_uv_is_used_first_if_the_machine_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's uv comes before pip, which comes after it for the case that uv fails."""
    uv = program(tmp_path / "uv", "uv 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(installer, "_pip", lambda python: ["pip", str(python)])
    first, second = installers(Path("venv/python"))
    assert first == [str(uv), "pip", "install", "--python", "venv/python"]
    assert second[:3] == ["pip", "venv/python", "install"]


def test_without_ensurepip_the_package_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without uv, pip and ensurepip is told to install Debian's package python3-venv."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(installer, "_version", lambda _pip: (0,))
    monkeypatch.setattr(installer, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit, match="apt-get install python3-venv"):
        list(installers(Path("venv/python")))


def test_servers_of_the_machine_are_found_by_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are found with their versions; one that is too old, or has no initdb, is not used."""
    for version in (13, 15, 16, 17):
        program(
            tmp_path / str(version) / "bin" / "postgres", f"postgres (PostgreSQL) {version}.4 (Debian {version}.4-1)"
        )
        (tmp_path / str(version) / "bin" / "initdb").touch()
    (tmp_path / "17" / "bin" / "initdb").unlink()
    monkeypatch.setattr(installed_postgres, "PLACES", [f"{tmp_path}/*/bin"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installed(Account()) == {version: tmp_path / str(version) / "bin" for version in (15, 16)}


@pytest.mark.parametrize(
    ("written", "servers", "chosen"),
    [
        (None, {15: Path("15"), 17: Path("17")}, (17, Path("17"))),
        (None, {}, (18, None)),
        ("15", {15: Path("15"), 17: Path("17")}, (15, Path("15"))),
        ("18", {15: Path("15")}, (18, None)),
    ],
)
def test_data_get_the_server_that_wrote_them(
    tmp_path: Path, written: str | None, servers: dict[int, Path], chosen: tuple[int, Path | None]
) -> None:
    """New data get the newest server of the machine, else the package; existing data the version that wrote them."""
    if written:
        (tmp_path / "PG_VERSION").write_text(f"{written}\n")
    assert choose(tmp_path, servers, 18) == chosen


def test_data_without_their_server_are_refused(tmp_path: Path) -> None:
    """Data of a version that neither the machine nor the package has are refused."""
    (tmp_path / "PG_VERSION").write_text("16\n")
    with pytest.raises(LookupError) as refused:
        choose(tmp_path, {15: Path("15")}, 18)
    assert refused.value.args == (16,)
