"""Errors of real servers about wrong values: the package shows the cause and never the value."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from api.migrations.databases.postgres.connection import engine_over
from api.migrations.errors import in_full
from api.migrations.execution.error_translation import describe
from api.migrations.urls.database_url import DatabaseURL
from tests.support.places import MariaDBPlace

SECRET = "geh3im"
NUMBER = 471147114711

POSTGRESQL = {
    f"SELECT '{SECRET}'::integer": '22P02): invalid input syntax for type integer: "…"',
    f"""SELECT 'its "{SECRET}" {SECRET}'::integer""": '22P02): invalid input syntax for type integer: "…"',
    f"SELECT E'\"{SECRET}\\n{SECRET}'::integer": '22P02): invalid input syntax for type integer: "…"',
    f"SELECT '{SECRET}'::json": "22P02): invalid input syntax for type json",
    f"SELECT '{{{SECRET}'::int[]": '22P02): malformed array literal: "…"',
    f"SELECT '{SECRET}'::bit(8)": '22P02): "…" is not a valid binary digit',
    f"SELECT '{NUMBER}'::integer": '22003): value "…" is out of range for type integer',
    f"SELECT {NUMBER}::integer": "22003): integer out of range",
    f"SELECT setval('counter', {NUMBER})": '22003): setval: value … is out of bounds for sequence "…" (1..5)',
    "CREATE TEMP TABLE t AS SELECT 1234.5::numeric(5, 2)": "22003): numeric field overflow",
    f"INSERT INTO narrow (a) VALUES ('{SECRET}')": "22001): value too long for type character varying(3)",
    "INSERT INTO narrow (b) VALUES (B'1111')": "22026): bit string length … does not match type bit(2)",
    f"SELECT '{SECRET}'::date": '22007): invalid input syntax for type date: "…"',
    f"SELECT to_date('{SECRET}', 'YYYY')": '22007): invalid value "…"',
    "SELECT '2024-13-45'::date": '22008): date/time field value out of range: "…"',
    "SELECT make_date(2024, 13, 45)": "22008): date field value out of range: …",
    "SELECT 1 / 0": "22012): division by zero",
    f"SET work_mem = '{SECRET}'": '22023): invalid value for parameter "work_mem": …',
    f"SELECT date_trunc('{SECRET}', now())": '22023): unit "…" not recognized for type timestamp with time zone',
    "SELECT decode('abc', 'hex')": "22023): invalid hexadecimal data: odd number of digits",
    f"SELECT '{SECRET}' ~ '('": "2201B): invalid regular expression: parentheses () not balanced",
    r"SELECT convert_from('\xff', 'UTF8')": '22021): invalid byte sequence for encoding "UTF8": …',
    "SELECT convert_to('…', 'LATIN1')": (
        '22P05): character with byte sequence … in encoding "UTF8" has no equivalent in encoding "LATIN1"'
    ),
    f"DO $$BEGIN RAISE '{SECRET}' USING ERRCODE = '22023'; END$$": "22023): its text is left out because a RAISE",
    "SELECT (SELECT i FROM generate_series(1, 2) i)": "21000): more than one row returned by a subquery used as an",
    f"INSERT INTO narrow (c) VALUES ({NUMBER}), ({NUMBER})": "23505): duplicate key value violates unique",
    f"INSERT INTO narrow (c) VALUES (-{NUMBER})": '23514): new row for relation "narrow" violates check constraint "d"',
    f"INSERT INTO narrow (a, e) VALUES ('{SECRET[:2]}', NULL)": '23502): null value in column "e" of relation "narrow"',
    f"SELECT '{SECRET}": '42601): unterminated quoted string at or near "…"',
    f"SELECT '{SECRET}\n{SECRET}": '42601): unterminated quoted string at or near "…"',
    f"SELECT 1 {SECRET} {SECRET}": '42601): syntax error at or near "…"',
}
"""Statements, and the text that is shown after `SQLSTATE`."""

ARGUMENTS: list[tuple[str, Any, str]] = [
    ("text", NUMBER, "expected str, got int"),
    ("integer", SECRET, "'str' object cannot be interpreted as an integer"),
    ("integer", NUMBER, "value out of int32 range"),
    ("date", f"2024-01-01 {SECRET}", "'str' object has no attribute 'toordinal'"),
    ("timestamp", SECRET, "expected a datetime.date or datetime.datetime instance, got 'str'"),
    ("uuid", f"it's {SECRET} (5)", 'invalid UUID "…": …'),
    ("inet", SECRET, '"…" does not appear to be an IPv4 or IPv6 interface'),
    ("numeric", SECRET, "InvalidOperation"),
    ("bytea", SECRET, "a bytes-like object is required, not 'str'"),
    ("integer[]", [SECRET], 'invalid array element at index 0: "…" object cannot be interpreted as an integer'),
    ("text", f"\udcff {SECRET}", "it has a character that utf-8 cannot encode"),
]

MYSQL = {
    f"INSERT INTO narrow (a) VALUES ('{SECRET}')": "error 1406): Data too long for column `a` at row 1",
    f"INSERT INTO narrow (i) VALUES ('it''s {SECRET}')": "error 1366): Incorrect integer value: '…' for column `",
    f"INSERT INTO narrow (i) VALUES ({NUMBER})": "error 1264): Out of range value for column `i` at row 1",
    f"INSERT INTO narrow (d) VALUES ('{SECRET}')": "error 1292): Incorrect date value: '…' for column `",
    f"INSERT INTO narrow (e) VALUES ('{SECRET}')": "error 1265): Data truncated for column `e` at row 1",
    "INSERT INTO narrow (l) VALUES ('Имя')": "error 1366): Incorrect string value: '…' for column `",
    f"INSERT INTO narrow (u) VALUES ('{SECRET}'), ('{SECRET}')": "error 1062): Duplicate entry '…' for key `",
    "INSERT INTO narrow (i) VALUES (1 / 0)": "error 1365): Division by 0",
    f"INSERT INTO narrow (i) SELECT 9223372036854775807 * {NUMBER}": "error 1690): BIGINT value is out of range in '…'",
    f"SELECT DATE '{SECRET}'": "error 1525): Incorrect DATE value: '…'",
    f"SET time_zone = '{SECRET}'": "error 1298): Unknown or incorrect time zone: '…'",
    f"SELECT '{SECRET}": "error 1064): its text is left out because it quotes the statement",
}
NARROW = """
    CREATE TABLE narrow (a varchar(3), i int, d date, e enum('a'), l varchar(9) CHARACTER SET latin1, u varchar(9),
                         UNIQUE KEY u (u))
"""


@pytest.fixture
async def postgresql(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Yield SQLAlchemy's connection over asyncpg, like that of a revision but in autocommit."""
    raw = await asyncpg.connect(database_url, statement_cache_size=0)
    await raw.execute("CREATE SEQUENCE counter MAXVALUE 5")
    await raw.execute(
        "CREATE TABLE narrow (a varchar(3), b bit(2), c bigint CONSTRAINT c UNIQUE CONSTRAINT d CHECK (c > 0), "
        "e integer NOT NULL DEFAULT 1)"
    )
    async with engine_over(raw, "AUTOCOMMIT").connect() as connection:
        yield connection
    await raw.close()


async def shown_error(connection: AsyncConnection, sql: str, *arguments: Any) -> str:
    """Run a statement that must fail, and return the text that the package shows."""
    with pytest.raises(DBAPIError) as raised:
        await connection.exec_driver_sql(sql, tuple(arguments) or None)
    return in_full(describe(raised.value))


async def test_a_postgresql_error_is_shown_without_values(postgresql: AsyncConnection) -> None:
    """PostgreSQL refuses each statement: the text has SQLSTATE and cause, on one line and without a value."""
    shown = {sql: await shown_error(postgresql, sql) for sql in POSTGRESQL}
    assert {sql: text for sql, text in shown.items() if f"(SQLSTATE {POSTGRESQL[sql]}" not in text} == {}
    assert [text for text in shown.values() if SECRET[:4] in text or str(NUMBER) in text or "\n" in text] == []


async def test_an_asyncpg_argument_error_is_shown_without_values(postgresql: AsyncConnection) -> None:
    """Asyncpg cannot encode an argument: the text has its number and the cause, and not the value."""
    shown = [(kind, await shown_error(postgresql, f"SELECT $1::{kind}", value)) for kind, value, _ in ARGUMENTS]
    expected = [(kind, f"DataError (SQLSTATE 22000): query argument $1: {why}") for kind, _, why in ARGUMENTS]
    assert shown == expected
    assert not any(SECRET in text or str(NUMBER) in text for _, text in shown)


async def test_an_executemany_error_names_the_row(postgresql: AsyncConnection) -> None:
    """One row of an `executemany` has a wrong argument: the text names argument and row."""
    rows = [(uuid.uuid4(),), (SECRET,)]
    with pytest.raises(DBAPIError) as raised:
        await postgresql.exec_driver_sql("SELECT $1::uuid", rows)
    assert 'query argument $1 in element #1: invalid UUID "…": …' in describe(raised.value)


async def test_a_mysql_error_is_shown_without_values(each_mysql_place: MariaDBPlace) -> None:
    """MariaDB or MySQL refuses each statement: the text has error number, column and cause, and no value."""
    url = DatabaseURL.parse(each_mysql_place.url)
    arguments = url.connect_args()
    engine = create_async_engine(url.sqlalchemy(), connect_args=arguments, isolation_level="AUTOCOMMIT")
    shown = {}
    async with engine.connect() as connection:
        await connection.execute(sa.text(NARROW))
        for sql in MYSQL:
            shown[sql] = await shown_error(connection, sql)
    await engine.dispose()
    assert {sql: text for sql, text in shown.items() if f"({MYSQL[sql]}" not in text} == {}
    assert [text for text in shown.values() if SECRET in text or str(NUMBER) in text] == []
