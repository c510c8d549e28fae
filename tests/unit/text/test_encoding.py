"""Text that a database's encoding cannot hold is spelt so that it can, and nothing of it is lost."""

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
def test_what_is_stored(text: str, encodings: tuple[str, ...], stored: str) -> None:
    """Whatever fits stays; the rest becomes an escape, which fits everywhere and is not changed again."""
    assert storable(text, encodings) == stored
    assert holds(stored, encodings)
    assert storable(stored, encodings) == stored
    assert holds(text, encodings) is (text == stored)


def test_it_is_cut_after_it_has_grown() -> None:
    """A column's size counts what is stored."""
    assert storable("Имя", ASCII, 12) == r"\u0418\u043c"
    assert storable("plain", ASCII, 3) == "pla"


@pytest.mark.parametrize("text", ["Имя-1", "naïve", "😀 b", "a:b", r"C:\new"])
def test_an_escape_is_turned_back_for_people(text: str) -> None:
    """What another instance reads is the name that was given."""
    assert restored(storable(text, ASCII)) == text


def test_what_is_not_printable_stays_escaped() -> None:
    """A terminal would obey it; and what ASCII spells was never escaped by us."""
    for text in (r"a\x1b", r"\u202e", r"\Uffffffff", r"\x41\u0042", r"\udcff"):
        assert restored(text) == text


@pytest.mark.parametrize(
    ("encoding", "python"),
    [("UTF8", "utf-8"), ("WIN1252", "cp1252"), ("KOI8R", "koi8-r"), ("utf8mb4", "utf-8"), ("MULE_INTERNAL", None)],
)
def test_the_codec_of_an_encoding(encoding: str, python: str | None) -> None:
    """As PostgreSQL and MySQL name them."""
    assert codec(encoding) == python


def bound(kind: sa.types.TypeEngine[str], dialect: sa.Dialect, text: str | None) -> str | None:
    """What a parameter of that type becomes."""
    processor = kind.dialect_impl(dialect).bind_processor(dialect)
    assert processor is not None
    result: str | None = processor(text)
    return result


def test_a_column_of_ours_adapts_what_is_put_in() -> None:
    """To the encodings of the connection at that moment; where they are not known, to ASCII on PostgreSQL."""
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
    """PostgreSQL shows ASCII only, and 63 bytes of it; the history may hold the name spelt in another way."""
    name = application_name(KEY, "migrating", instance)
    assert name.isascii()
    shown = instance_of(name)
    assert instance.startswith(shown)
    for stored in (instance, storable(instance, ("LATIN1",)), storable(instance, ASCII)):
        assert may_be(shown, stored)
    assert not may_be(shown, "another")
    assert not may_be(shown, f"{shown[:1]}-2")


def test_a_short_name_is_not_the_beginning_of_a_long_one() -> None:
    """api-1 is not api-10."""
    assert not may_be("api-1", "api-10")
