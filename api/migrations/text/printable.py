"""Text that other programs and people chose, made safe to show.

A control character in it could draw over a terminal's screen, hide a part of a line, or forge the next one.
"""

from __future__ import annotations

import unicodedata

_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Control, format (writing direction among them), surrogate, line and paragraph separator."""


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with each control and formatting character as its escape sequence, such as `\x1b`.

    Args:
        text: any text.
        keep: control characters that stay, such as a newline.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(one) if one not in keep else one for one in text)


def _escaped(character: str) -> str:
    unsafe = unicodedata.category(character) in _UNSAFE
    return character.encode("unicode_escape").decode("ascii") if unsafe else character
