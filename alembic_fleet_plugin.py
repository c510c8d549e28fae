"""The plugin that Alembic loads: `upgrade`, `downgrade` and `stamp` acquire the lock, with `env.py` untouched.

A project opts in with `fleet = true` in the section `[alembic]` of its ini file, or in `[tool.alembic]` of
`pyproject.toml`; for other projects nothing changes.

Alembic loads plugins in the middle of its own import, so this module imports only the standard library. It replaces the
function with which `ScriptDirectory.run_env` executes `env.py`: `alembic.util` is complete by then, `alembic.script` is
not.
"""

import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

COMMANDS = {"upgrade": "upgrade", "downgrade": "downgrade", "do_stamp": "stamp"}
"""The commands that change the database, by the name of the function that each gives to `EnvironmentContext`."""


def setup(plugin: Any) -> None:
    """Replace `alembic.util.load_python_file`; Alembic calls this once."""
    util = sys.modules["alembic.util"]
    util.load_python_file = partial(_load, util.load_python_file)  # type: ignore[attr-defined]


def _load(load: Any, folder: Any, name: Any) -> Any:
    command = _command(folder) if name == "env.py" else None
    if command is None:
        return load(folder, name)
    return import_module("alembic_fleet.environment").run_command(*command)


def _command(folder: Any) -> tuple[Any, str] | None:
    """Return the environment of the command that executes `env.py` of `folder`, and its kind, if it needs the lock."""
    environment = getattr(sys.modules["alembic.context"], "_proxy", None)
    if environment is None or environment.script.dir != folder:
        return None
    options, config = environment.context_opts, environment.config
    kind = COMMANDS.get(getattr(options.get("fn"), "__name__", ""))
    # with a connection in its attributes the caller, such as a test, has chosen the session and its transaction
    if kind is None or options.get("as_sql") or "connection" in config.attributes:
        return None
    opted_in = str(config.get_alembic_option("fleet", "no")).lower() not in {"0", "false", "no", "off"}
    return (environment, kind) if opted_in else None


class _Plugin(ModuleType):
    """This module, which Alembic up to 1.19 iterates over, as if the entry point named a list of modules."""

    def __iter__(self) -> Iterator[ModuleType]:
        yield self


sys.modules[__name__].__class__ = _Plugin
