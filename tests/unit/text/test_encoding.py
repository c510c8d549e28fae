"""Text that a database's encoding cannot store is stored with escapes and restored without loss."""

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from api.migrations.core.lock_key import LockKey
from api.migrations.execution.dialects import Kept, KeptText, stores
from api.migrations.lock_manager import application_name, instance_of, may_be
from api.migrations.text.encoding import ASCII, UTF8, codec, holds, restored, storable

KEY = LockKey.derive("fastapi", "alembic_version", None)


@pytest.mark.parametrize(
    ("text", "encodings", "stored"),
    [
        ("naïve", ("LATIN1",), "naïve"),
        ("'…' – ½", ("LATIN1",), r"'...' \u2013 ½"),
        ("Имя 😀", ("LATIN1",), r"\u0418\u043c\u044f \U0001f600"),
        ("Имя…", ("WIN1251",), "Имя…"),
        ("naïve", ASCII, r"na\xefve"),
        ("Имя 😀…", UTF8, "Имя 😀…"),
        ("half \udcff", UTF8, r"half \udcff"),
        ("a\0b", UTF8, r"a\x00b"),
        ("a\0b", ("LATIN1",), r"a\x00b"),
        ("名前…", ("EUC_JP",), "名前…"),
        ("¥", ("EUC_JP",), r"\xa5"),
        ("갂", ("EUC_KR",), r"\uac02"),
        ("名前", ("EUC_TW",), r"\u540d\u524d"),
        ("é…", ("LATIN1", "UTF8"), "é..."),
        ("é", ("UTF8", "SQL_ASCII"), r"\xe9"),
        ("", ("LATIN1",), ""),
    ],
)
def test_characters_outside_the_encoding_are_stored_as_escapes(
    text: str, encodings: tuple[str, ...], stored: str
) -> None:
    """Characters that the encoding has stay, others become escapes, and stored text is not changed again."""
    assert storable(text, encodings) == stored
    assert holds(stored, encodings)
    assert storable(stored, encodings) == stored
    assert holds(text, encodings) is (text == stored)


def test_stored_text_is_cut_after_escaping() -> None:
    """The size of a column limits the text after its escaping."""
    assert storable("Имя", ASCII, 12) == r"\u0418\u043c"
    assert storable("plain", ASCII, 3) == "pla"


@pytest.mark.parametrize("text", ["Имя-1", "naïve", "😀 b", "a:b", r"C:\new"])
def test_an_escaped_name_is_restored(text: str) -> None:
    """An instance reads an escaped name as it was given."""
    assert restored(storable(text, ASCII)) == text


def test_escapes_of_unprintable_characters_are_not_restored() -> None:
    """Escapes of control characters, surrogates and ASCII letters are not restored."""
    for text in (r"a\x1b", r"\u202e", r"\Uffffffff", r"\x41\u0042", r"\udcff"):
        assert restored(text) == text


@pytest.mark.parametrize(
    ("encoding", "python"),
    [("UTF8", "utf-8"), ("WIN1252", "cp1252"), ("KOI8R", "koi8-r"), ("utf8mb4", "utf-8"), ("MULE_INTERNAL", None)],
)
def test_database_encodings_have_python_codecs(encoding: str, python: str | None) -> None:
    """PostgreSQL's and MySQL's names of encodings are mapped to Python's codecs."""
    assert codec(encoding) == python


def bound(kind: sa.types.TypeEngine[str], dialect: sa.Dialect, text: str | None) -> str | None:
    """Return what a parameter of that type becomes."""
    processor = kind.dialect_impl(dialect).bind_processor(dialect)
    assert processor is not None
    result: str | None = processor(text)
    return result


def test_a_text_column_escapes_by_the_connection_s_encoding() -> None:
    """A column of the package escapes text by the connection's current encodings, or to ASCII without any."""
    dialect, known = postgresql.dialect(), ["LATIN1"]  # type: ignore[no-untyped-call]
    assert bound(Kept(4), dialect, "é…") == r"\xe9"
    stores(dialect, lambda: tuple(known))
    assert bound(Kept(4), dialect, "é…") == "é..."
    known.append("SQL_ASCII")
    assert bound(KeptText(), dialect, "é…") == r"\xe9..."
    assert bound(KeptText(), dialect, None) is None
    assert bound(KeptText(), sqlite.dialect(), "é…\udcff") == r"é…\udcff"


@pytest.mark.parametrize("instance", ["Имя-1", "обработчик-заказов-1", "😀" * 50, "x" + "ü" * 100, "x" * 200, "web-1"])
def test_a_session_is_recognised_by_its_name(instance: str) -> None:
    """A session's name of 63 ASCII bytes matches its instance in every spelling of the history, and no other."""
    name = application_name(KEY, "migrating", instance)
    assert name.isascii()
    shown = instance_of(name)
    assert instance.startswith(shown)
    for stored in (instance, storable(instance, ("LATIN1",)), storable(instance, ASCII)):
        assert may_be(shown, stored)
    assert not may_be(shown, "another")
    assert not may_be(shown, f"{shown[:1]}-2")


def test_a_short_name_does_not_match_a_longer_one() -> None:
    """The name api-1 does not match the instance api-10."""
    assert not may_be("api-1", "api-10")
