"""`adopt` recognises the shape of env.py by its text, and offers `fleet = true` where typed commands need it."""

from pathlib import Path

import pytest

from tests.unit.cli.adopt.foreign_project import CONFIGURED, INI, RUN_ENV, TEMPLATES, adopted, said, write


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (RUN_ENV, "ok calls run_env"),
        ((TEMPLATES / "generic" / "env.py").read_text(), "may opens a connection of its own"),
        ((TEMPLATES / "async" / "env.py").read_text(), "may opens a connection of its own"),
        ("c = config.attributes.get('connection')\ncontext.configure(c)\n", "ok uses the connection that it is given"),
        ("config.attributes.get('configure_logger')\nengine.connect()\n", "may opens a connection of its own"),
        ("import elsewhere\n", "unknown its text does not show"),
        ("def f(\n", "unknown migrations/env.py does not parse: SyntaxError"),
        ("", "do migrations/env.py does not exist"),
    ],
)
def test_the_shape_of_env_py_is_recognised(folder: Path, env: str, words: str) -> None:
    """Alembic's templates, the cookbook's env.py and run_env are told apart by their text."""
    write(folder, "migrations/env.py", env)
    assert words in said(adopted(), "env.py")


def test_a_transaction_around_the_revisions_is_shown(folder: Path) -> None:
    """env.py begins a transaction itself: the line, and that it is refused if it surrounds the revisions."""
    write(folder, "migrations/env.py", CONFIGURED.format(before="connection.begin()"))
    wanted = "may begins a transaction, which is refused if it surrounds the revisions"
    assert f"{wanted}. To fix: remove it then: migrations/env.py:3: connection.begin()" in said(adopted(), "env.py")
    write(folder, "migrations/env.py", (TEMPLATES / "async" / "env.py").read_text())
    assert wanted not in said(adopted(), "env.py")


def test_several_databases_are_recognised(folder: Path) -> None:
    """Alembic's template `multidb` may stay, on PostgreSQL only."""
    write(folder, "migrations/env.py", (TEMPLATES / "multidb" / "env.py").read_text())
    text = said(adopted(), "env.py")
    assert "may migrates several databases (Alembic's template multidb), which may stay on PostgreSQL" in text


TOML = "[tool.alembic]\nscript_location = 'migrations'\n"


@pytest.mark.parametrize(
    ("files", "changed"),
    [
        ({"alembic.ini": INI}, "alembic.ini"),
        ({"alembic.ini": INI.replace("\n", "\r\n")}, "alembic.ini"),
        ({"pyproject.toml": TOML}, "pyproject.toml"),
        # Alembic's template `pyproject` writes both
        ({"alembic.ini": "[alembic]\nsqlalchemy.url = driver://\n", "pyproject.toml": TOML}, "pyproject.toml"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_the_installed_package_adds_fleet_to_the_configuration(
    folder: Path, files: dict[str, str], changed: str
) -> None:
    """`--write` inserts `fleet = true` below the header of Alembic's section; the next run finds it."""
    (folder / "alembic.ini").unlink()
    for path, text in files.items():
        write(folder, path, text)
    write(folder, "migrations/env.py", (TEMPLATES / "generic" / "env.py").read_text())
    write(folder, "Procfile", "release: alembic upgrade head\n")
    result = adopted(write=True)
    assert "acquires the lock only with `fleet = true` in [" in said(result, "env.py")
    assert [change.path for change in result.changes if change.written] == ["shop/main.py", changed]
    header, _, rest = files[changed].partition("\n")
    end = "\r\n" if header.endswith("\r") else "\n"
    assert (folder / changed).read_bytes().decode() == f"{header}\nfleet = true{end}{rest}"
    again = adopted(write=True)
    assert "acquires the lock too" in said(again, "env.py")
    assert "it acquires the instances' lock" in said(again, "command")
    assert again.changes == []


@pytest.mark.parametrize(
    ("ini", "env"),
    [
        (f"{INI}[audit]\nscript_location = audit\n", "engine.connect()\n"),
        (f"{INI}fleet = false\n", "engine.connect()\n"),
        (INI, RUN_ENV),
        (INI, "import elsewhere\n"),
        (INI, CONFIGURED.format(before="connection.begin()")),
    ],
    ids=["several sections", "switched off", "run_env", "an unknown env.py", "a transaction"],
)
@pytest.mark.usefixtures("installed")
def test_fleet_is_not_written_where_it_is_doubtful(folder: Path, ini: str, env: str) -> None:
    """Where the section, the wish or the shape of env.py is doubtful, `--write` leaves the configuration as it is."""
    write(folder, "alembic.ini", ini)
    write(folder, "migrations/env.py", env)
    adopted(write=True)
    assert (folder / "alembic.ini").read_text() == ini


def test_a_lock_of_the_project_is_shown_with_its_removal(folder: Path) -> None:
    """env.py acquires an advisory lock: the line is shown, and a diff, which `--write` does not make, removes it."""
    lock = 'connection.execute(text("SELECT pg_advisory_lock(42)"))'
    write(folder, "migrations/env.py", CONFIGURED.format(before=lock))
    result = adopted()
    assert f"To fix: remove it: migrations/env.py:3: {lock}" in said(result, "env.py")
    [change] = [change for change in result.changes if change.path == "migrations/env.py"]
    assert (f"-    {lock}\n" in change.diff, "configure" in change.after.decode(), change.safe) == (True, True, False)
