"""Reports ignored settings: misspelt variables, and lines of `.env` that are not assignments."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

from pydantic import AliasChoices

from ..errors import ConfigurationError
from . import MigrationSettings, env_file

log = logging.getLogger(__name__)

PREFIX = "MIGRATION_"

_SERVICE_LINK = re.compile(r"_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$", re.I)
"""The variables that Kubernetes sets in each pod for a Service whose name begins with `migration`."""


def unread_settings() -> list[str]:
    """Return a message for each ignored variable of the environment or `.env`, and for each ignored line; no values."""
    messages = list(_misspelt(os.environ, ""))
    # a file that cannot be read is an error where the settings are loaded
    with suppress(ConfigurationError):
        file = env_file.read()
        messages += _misspelt(file.names, f" in {file.path}")
        messages += [f"line {line} of {file.path} is not NAME=value and is ignored" for line in file.broken]
    return messages


def warn_of_unread_settings() -> None:
    """Log each message as a warning."""
    for message in unread_settings():
        log.warning("%s", message, extra={"event": "unread_setting"})


def _misspelt(names: Iterable[str], place: str) -> Iterator[str]:
    known = set(_known())
    for name in dict.fromkeys(names):
        if not name.upper().startswith("MIGRATION") or name.upper() in known or _SERVICE_LINK.search(name):
            continue
        # imported only if there is a mistake
        from difflib import get_close_matches

        endings = [setting.removeprefix(PREFIX) for setting in known]
        close = get_close_matches(re.sub("^MIGRATIONS?_?", "", name.upper()), endings, n=1)
        # a name without the prefix may belong to another program
        if close or name.upper().startswith(PREFIX):
            hint = f"; did you mean {PREFIX}{close[0]}?" if close else ""
            yield f"{name}{place} is not a setting of the migrations and is ignored{hint}"


def _known() -> Iterator[str]:
    for name, field in MigrationSettings.model_fields.items():
        alias = field.validation_alias
        yield str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"{PREFIX}{name}".upper()
