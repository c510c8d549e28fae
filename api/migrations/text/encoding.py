"""Adapts text to the characters that a database can store, so that every failure can be recorded.

PostgreSQL refuses a statement if the database's encoding lacks a character of a parameter; NUL it refuses in every
encoding. No database stores half of a surrogate pair, which Python uses for bytes of a file name or an environment
variable that are not UTF-8.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable
from functools import cache

UTF8 = ("UTF8",)
"""What MySQL (`utf8mb4`) and SQLite store."""
ASCII = ("SQL_ASCII",)
"""What every database stores."""

_CODECS = {
    # bytes without a meaning: only ASCII is sure to be read as it was written
    "sql_ascii": "ascii",
    "euc_cn": "gb2312",
    # Python's EUC-KR composes syllables of several letters, but PostgreSQL does not
    "euc_kr": "iso2022_kr",
    # Python's EUC-JIS-2004 includes JIS X 0212
    "euc_jis_2004": "iso2022_jp_2004",
    "koi8r": "koi8_r",
    "koi8u": "koi8_u",
    "utf8mb3": "utf-8",
    "utf8mb4": "utf-8",
}
_JAPANESE = {"euc_jp", "iso2022_jp_2004"}
_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U00(?:0[0-9a-f]|10)[0-9a-f]{4})")
_DISPUTED = frozenset("¢£¥¬‖‾\u2212〜―⦅⦆￣￥")
"""Python and PostgreSQL map these to different characters of the Japanese encodings."""


@cache
def codec(encoding: str) -> str | None:
    """Return Python's name for a server's encoding (`LATIN1`, `WIN1252`, `utf8mb4`); None if Python lacks it."""
    name = encoding.lower()
    name = _CODECS.get(name, name.replace("win", "cp"))
    try:
        return codecs.lookup(name).name
    except LookupError:
        return None


def holds(text: str, encodings: Iterable[str]) -> bool:
    """Whether `text` is stored unchanged if it passes through each of the server's `encodings`.

    Of an encoding that Python does not know, only ASCII is certain.
    """
    return "\0" not in text and all(_encodes(text, codec(encoding) or "ascii") for encoding in encodings)


def storable(text: str, encodings: Iterable[str], length: int | None = None) -> str:
    r"""Return `text` with the characters that cannot be stored spelt in ASCII, cut to `length` characters.

    An ellipsis becomes three dots. Any other character becomes Python's escape (`\u0438`), so different texts stay
    different.
    """
    encodings = tuple(encodings)
    if not holds(text, encodings):
        text = "".join(_replaced(character, encodings) for character in text)
    return text[:length]


def restored(text: str) -> str:
    """Return `text` for people: the escapes of `storable` become characters again if these are printable."""
    return _ESCAPE.sub(_unescaped, text)


def _unescaped(escape: re.Match[str]) -> str:
    character = escape[0].encode().decode("unicode_escape")
    return character if character.isprintable() and not character.isascii() else escape[0]


def _replaced(character: str, encodings: tuple[str, ...]) -> str:
    for candidate in (character, unicodedata.normalize("NFKD", character)):
        if holds(candidate, encodings):
            return candidate
    return f"\\x{ord(character):02x}" if character == "\0" else character.encode("ascii", "backslashreplace").decode()


def _encodes(text: str, name: str) -> bool:
    if name in _JAPANESE and not _DISPUTED.isdisjoint(text):
        return False
    try:
        text.encode(name)
    except UnicodeEncodeError:
        return False
    return True
