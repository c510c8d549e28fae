"""What looks like a setting and is not read: a misspelt variable, or a line of `.env` that is no assignment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator

from pydantic import AliasChoices

from ..errors import ConfigurationError
from . import MigrationSettings, env_file

log = logging.getLogger(__name__)

PREFIX = "MIGRATION_"

_SERVICE_LINK = re.compile(r"_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$", re.I)
"""What Kubernetes sets in each pod for a Service whose name begins with `migration`."""


def unread_settings() -> list[str]:
    """One sentence for each variable of the environment or `.env`, and for each line of that; none shows a value."""
    try:
        file = env_file.read()
    except ConfigurationError:  # whoever loads the settings is told
        file = None
    told = [_misspelt(name, "") for name in _candidates(os.environ)]
    if file is not None:
        told += [_misspelt(name, f" of {file.path}") for name in _candidates(file.names)]
        told += [f"line {line} of {file.path} is not NAME=value and is ignored" for line in file.broken]
    return [sentence for sentence in told if sentence]


def warn_of_unread_settings() -> None:
    """Log a warning for each."""
    for sentence in unread_settings():
        log.warning("%s", sentence, extra={"event": "unread_setting"})


def _candidates(names: Iterable[str]) -> Iterator[str]:
    known = set(_known())
    for name in dict.fromkeys(names):
        looks_like_ours = name.upper().startswith("MIGRATION") and name.upper() not in known
        if looks_like_ours and not _SERVICE_LINK.search(name):
            yield name


def _misspelt(name: str, place: str) -> str | None:
    # imported only where something is wrong
    from difflib import get_close_matches

    what = f"{name}{place} is not a setting of the migrations and is ignored"
    endings = [known.removeprefix(PREFIX) for known in _known()]
    close = get_close_matches(re.sub("^MIGRATIONS?_?", "", name.upper()), endings, n=1)
    if close:
        return f"{what}; did you mean {PREFIX}{close[0]}?"
    # a name that only begins alike may be another program's
    return what if name.upper().startswith(PREFIX) else None


def _known() -> Iterator[str]:
    for name, field in MigrationSettings.model_fields.items():
        alias = field.validation_alias
        yield str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"{PREFIX}{name}".upper()
