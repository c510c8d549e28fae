"""`adopt` shows the lifespan of an application as a diff, and writes it if the application is clear."""

import ast
from pathlib import Path

import pytest

from api.migrations.cli.adopt.application import with_lifespan
from tests.unit.cli.adopt.foreign_project import IMPORT, MAIN, adopted, contents, said, write


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("app = FastAPI()", "app = FastAPI(lifespan=lifespan_with_migrations)"),
        ("app = FastAPI(title='ä')", "app = FastAPI(title='ä', lifespan=lifespan_with_migrations)"),
        ("app = FastAPI(\n  title='a',\n)", "app = FastAPI(\n  title='a',\n  lifespan=lifespan_with_migrations,\n)"),
        ("app = FastAPI(lifespan=mine)", "app = FastAPI(lifespan=lifespan_with_migrations.then(mine))"),
        ("app = FastAPI(lifespan=a(b), x=1)", "app = FastAPI(lifespan=lifespan_with_migrations.then(a(b)), x=1)"),
        ("app = FastAPI(**k, lifespan=mine)", "app = FastAPI(**k, lifespan=lifespan_with_migrations.then(mine))"),
        ("app = FastAPI(**settings)", None),
        ("app = FastAPI(title=('a'))", None),
    ],
)
def test_the_lifespan_is_added_to_the_call_and_nothing_else_changes(before: str, after: str | None) -> None:
    """The lifespan is added, or wraps the given one; a call that cannot be changed safely is left to a person."""
    text = f'"""A service."""\nimport os\n\n{before}\n'
    call = next(
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and "FastAPI" in ast.dump(node.func)
    )
    assert with_lifespan(text, call) == (after and f'"""A service."""\nimport os\n{IMPORT}\n{after}\n')


def test_only_write_writes_and_only_the_lifespan(folder: Path) -> None:
    """`adopt` writes nothing; `--write` writes the lifespan and keeps line ends; the next run has nothing to do."""
    write(folder, "shop/main.py", MAIN.replace("\n", "\r\n"))
    write(folder, "Procfile", "web: alembic upgrade head && uvicorn shop.main:app\n")
    before = contents(folder)
    shown = adopted()
    assert contents(folder) == before
    assert [change.safe for change in shown.changes] == [True]
    written = adopted(write=True)
    changed = before | {str(folder / "shop/main.py"): written.changes[0].after}
    assert contents(folder) == changed
    assert b"FastAPI(lifespan=lifespan_with_migrations)\r\n" in written.changes[0].after
    assert b"\n" not in written.changes[0].after.replace(b"\r\n", b"")
    again = adopted(write=True)
    assert (again.changes, contents(folder)) == ([], changed)
    assert "ok shop/main.py:4 has lifespan_with_migrations" in said(again, "app")


def test_a_file_that_changed_meanwhile_is_not_written(folder: Path) -> None:
    """The file changes between reading and writing: `write` refuses and keeps the new content."""
    [change] = adopted().changes
    write(folder, "shop/main.py", MAIN + "# mine\n")
    assert not change.write(folder)
    assert (folder / "shop/main.py").read_text() == MAIN + "# mine\n"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"shop/other.py": MAIN}, "several applications: shop/main.py:3, shop/other.py:3"),
        ({"shop/hooks.py": "import fastapi\n@app.on_event('startup')\ndef f(): ...\n"}, "does not run these handlers"),
    ],
)
def test_write_leaves_a_doubtful_application_to_a_person(folder: Path, files: dict[str, str], words: str) -> None:
    """Several applications, or handlers that a lifespan would switch off: the facts say so, and nothing is written."""
    for path, text in files.items():
        write(folder, path, text)
    before = contents(folder)
    result = adopted(write=True)
    assert words in said(result, "app")
    assert "--write made none of them" in result.message
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("scripts/openapi.py", MAIN),
        ("shop/schema.py", "from fastapi import FastAPI\n\nprint(FastAPI().openapi())\n"),
        ("tests/app.py", MAIN),
    ],
)
def test_an_application_that_serves_nobody_is_not_changed(folder: Path, path: str, text: str) -> None:
    """A script, a call whose result is dropped, and a test do not count; alone in a project they are not written."""
    write(folder, path, text)
    assert [(change.path, change.safe) for change in adopted().changes] == [("shop/main.py", True)]
    (folder / "shop/main.py").unlink()
    before = contents(folder)
    assert not any(change.safe for change in adopted(write=True).changes)
    assert contents(folder) == before


def test_the_application_of_the_server_command_is_chosen(folder: Path) -> None:
    """Of two applications the change is for the one that the Dockerfile starts."""
    write(folder, "shop/other.py", MAIN)
    write(folder, "Dockerfile", 'CMD ["uvicorn", "shop.other:app", "--workers", "4"]\n')
    result = adopted()
    assert [(change.path, change.safe) for change in result.changes] == [("shop/other.py", True)]
    assert "one process in one container" in said(result, "server")
