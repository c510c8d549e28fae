"""Makes text of other programs and people safe to show.

A control character could draw over a terminal's screen, hide a part of a line, or forge the next line.
"""

from __future__ import annotations

import unicodedata

_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Control, format (such as writing direction), surrogate, line separator, paragraph separator."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Return `text` with each control and format character as an escape, such as `\x1b`; those in `keep` stay."""
    if text.isprintable():
        return text
    return "".join(character if character in keep else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    unsafe = unicodedata.category(character) in _UNSAFE
    return character.encode("unicode_escape").decode("ascii") if unsafe else character
