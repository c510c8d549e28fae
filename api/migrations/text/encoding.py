"""Which characters a database can store, and what is stored instead of those that it cannot.

PostgreSQL refuses a whole statement where one character of a parameter has no place in the database's encoding; a NUL
character it refuses in every encoding. No database stores half of a surrogate pair, which Python puts where a file name
or an environment variable was not valid UTF-8. A failure must be recorded all the same, so its text is adapted.
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
    # Python's EUC-KR composes syllables of several letters, which PostgreSQL does not
    "euc_kr": "iso2022_kr",
    # Python's EUC-JIS-2004 has JIS X 0212 as well
    "euc_jis_2004": "iso2022_jp_2004",
    "koi8r": "koi8_r",
    "koi8u": "koi8_u",
    "utf8mb3": "utf-8",
    "utf8mb4": "utf-8",
}
_JAPANESE = {"euc_jp", "iso2022_jp_2004"}
_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U00(?:0[0-9a-f]|10)[0-9a-f]{4})")
_DISPUTED = frozenset("¢£¥¬‖‾\u2212〜―⦅⦆￣￥")
"""Python and PostgreSQL take these for different characters of the Japanese encodings."""


@cache
def codec(encoding: str) -> str | None:
    """Python's name for an encoding of a server's (`LATIN1`, `WIN1252`, `utf8mb4`); None where it has none."""
    name = encoding.lower()
    name = _CODECS.get(name, name.replace("win", "cp"))
    try:
        return codecs.lookup(name).name
    except LookupError:
        return None


def holds(text: str, encodings: Iterable[str]) -> bool:
    """Whether `text` can be stored unchanged where each of the server's `encodings` is passed through.

    Of an encoding that Python does not know, only ASCII is sure.
    """
    return "\0" not in text and all(_encodes(text, codec(encoding) or "ascii") for encoding in encodings)


def storable(text: str, encodings: Iterable[str], length: int | None = None) -> str:
    r"""`text` with what cannot be stored spelt in ASCII, cut to `length` characters.

    Three dots stand for an ellipsis; any other character becomes Python's escape (`\u0438`), so that no two texts
    become the same one.
    """
    encodings = tuple(encodings)
    if not holds(text, encodings):
        text = "".join(_replaced(character, encodings) for character in text)
    return text[:length]


def restored(text: str) -> str:
    """`text` with the escapes of `storable` turned back, for people; the printable ones only."""
    return _ESCAPE.sub(_read, text)


def _read(escape: re.Match[str]) -> str:
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
