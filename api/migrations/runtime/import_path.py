"""Functions that a setting names by their import path."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def imported(path: str) -> Callable[..., Any]:
    """Return the function at `package.module:function`.

    Raises:
        TypeError: what is there is not a function.
        Exception: its module does not exist or cannot be imported, or has no such attribute.
    """
    module, _, name = path.partition(":")
    function: Any = import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    if not callable(function):
        raise TypeError("it is not a function")
    return function  # type: ignore[no-any-return]
