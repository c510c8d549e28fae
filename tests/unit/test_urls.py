"""Database URLs as platforms hand them out are understood, and never shown."""

from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from api.migrations.errors import ConfigurationError
from api.migrations.urls import DatabaseURL

SECRET = "geh3im"

DSNS = [
    ("postgres://u:p@h/d", "postgresql://u:p@h/d"),
    ("postgresql+asyncpg://u:p@h:5433/d", "postgresql://u:p@h:5433/d"),
    ("postgresql+psycopg2://u:p@h/d", "postgresql://u:p@h/d"),
    ("POSTGRES://u:p@h/d", "postgresql://u:p@h/d"),
    ("  postgresql://u:p@h/d\n", "postgresql://u:p@h/d"),
    ("postgresql://u:p@h:25060/d?sslmode=require", "postgresql://u:p@h:25060/d?sslmode=require"),
    ("postgresql://u:p%40ss@h/d", "postgresql://u:p%40ss@h/d"),
    ("postgresql://u:p@ss@h/d", "postgresql://u:p%40ss@h/d"),
    ("postgresql://u:50%25@h/d", "postgresql://u:50%25@h/d"),
    ("postgresql://u%40tenant:p:q@h/d", "postgresql://u%40tenant:p%3Aq@h/d"),
    ("postgresql://u@h/d", "postgresql://u@h/d"),
    ("postgresql://h/d", "postgresql://h/d"),
    ("postgresql://u:p@h1:5433,h2:5434/d", "postgresql://u:p@h1:5433,h2:5434/d"),
    ("postgresql://u:p@[::1]:5433/d", "postgresql://u:p@[::1]:5433/d"),
    ("postgresql://u:p@[::1]/d", "postgresql://u:p@[::1]/d"),
    ("postgresql:///d", "postgresql:///d"),
]


@pytest.mark.parametrize(("text", "dsn"), DSNS)
def test_a_platform_url_becomes_one_that_asyncpg_takes(text: str, dsn: str) -> None:
    """Scheme, credentials and hosts in the form of libpq."""
    url = DatabaseURL.parse(text)
    assert (url.dialect, url.dsn) == ("postgresql", dsn)


@pytest.mark.parametrize("written", [SECRET + "@%", "a/b#c?d", "ü €", "100%", "+ +"])
def test_any_password_survives_when_encoded(written: str) -> None:
    """What the server gets is what was meant."""
    encoded = "".join(f"%{byte:02X}" for byte in written.encode())
    password = urlsplit(DatabaseURL.parse(f"postgresql://u:{encoded}@h/d").dsn).password
    assert unquote(password or "") == written


def test_a_unix_socket_is_a_parameter() -> None:
    """Cloud SQL and local servers: no host in front, a folder in the query."""
    url = DatabaseURL.parse("postgresql://u:p@/d?host=/cloudsql/project:region:db&port=5433")
    assert parse_qs(urlsplit(url.dsn).query) == {"host": ["/cloudsql/project:region:db"], "port": ["5433"]}


def test_parameters_of_other_clients_are_dropped(tmp_path: Path) -> None:
    """The driver would send them to the server as settings, which refuses the connection."""
    dropped = (
        "channel_binding=require&pgbouncer=true&connection_limit=5&gssencmode=disable&keepalives_idle=30&pool_timeout=1"
    )
    (tmp_path / "a b").touch()
    ours = f"sslmode=verify-full&application_name=x&sslrootcert={tmp_path}/a b"
    url = DatabaseURL.parse(f"postgresql://u:p@h/d?{dropped}&{ours}")
    kept = {"sslmode": ["verify-full"], "application_name": ["x"], "sslrootcert": [f"{tmp_path}/a b"]}
    assert parse_qs(urlsplit(url.dsn).query) == kept


@pytest.mark.parametrize(("query", "seconds"), [("", 5), ("?connect_timeout=17", 17), ("?connect_timeout=0", 5)])
def test_the_connect_timeout_is_taken_over(query: str, seconds: float) -> None:
    """0 waits for ever in libpq, which nobody here does."""
    url = DatabaseURL.parse(f"postgresql://u:p@h/d{query}")
    assert url.connect_timeout_seconds == seconds
    assert "connect_timeout" not in url.dsn


def test_an_empty_parameter_is_none() -> None:
    """A template that left the value out."""
    assert DatabaseURL.parse("postgresql://u:p@h/d?sslmode=&sslrootcert=").dsn == "postgresql://u:p@h/d"


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ("mysql://u:p@h/d", "mysql"),
        ("mariadb+asyncmy://u:p@h/d", "mysql"),
        ("sqlite:///x.db", "sqlite"),
        ("sqlite+aiosqlite:////tmp/x.db", "sqlite"),
    ],
)
async def test_other_databases_are_recognised_and_not_opened(text: str, dialect: str) -> None:
    """The driver here speaks to PostgreSQL only."""
    url = DatabaseURL.parse(text)
    assert url.dialect == dialect
    with pytest.raises(ConfigurationError, match=dialect):
        await url.connect()


@pytest.mark.parametrize(
    "text",
    [
        "",
        SECRET,
        f"oracle://u:{SECRET}@h/d",
        f"u:{SECRET}@h:5432/d",
        f"https://u:{SECRET}@h/d",
        f"postgresql:u:{SECRET}@h/d",
        f"postgresql://u:{SECRET}@h:port/d",
        f"postgresql://u:{SECRET}@h:0/d",
        f"postgresql://u:{SECRET}@h:65536/d",
        f"postgresql://u:{SECRET}@h:²/d",
        f"postgresql://u:{SECRET}@h1:5432,h2:x/d",
        f"postgresql://u:{SECRET}@[::1/d",
        f"postgresql://u:{SECRET}@[{SECRET}]/d",
        f"postgresql://u:[{SECRET}]@h/d",
        f"postgresql://u:{SECRET}#1@h/d",
        f"postgresql://u:{SECRET}/1@h/d",
        f"postgresql://u:1?{SECRET}@h/d",
        f"postgresql://u:{SECRET}℀@h/d",
        f"postgresql://u:{SECRET}@h/d?sslmode",
        f"postgresql://u:p@h/d?{SECRET}",
        f"postgresql://u:{SECRET}@h/d?connect_timeout=soon",
        f"postgresql://u:p@h/d?connect_timeout={SECRET}",
    ],
)
def test_a_malformed_url_is_refused_without_being_shown(text: str) -> None:
    """The line names the setting and the form, and goes into logs that many can read."""
    with pytest.raises(ConfigurationError) as refused:
        DatabaseURL.parse(text, name="MIGRATION_DATABASE_URL")
    message = str(refused.value)
    assert message.startswith("MIGRATION_DATABASE_URL")
    assert "postgresql://user:password@host:5432/name" in message
    assert SECRET not in message
    assert not text or text not in message
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("text", [f"postgresql://u:{SECRET}@dbhost/d", f"mysql://u:{SECRET}@dbhost/d"])
def test_the_text_form_shows_the_dialect_only(text: str) -> None:
    """Whatever ends up in a log or a traceback."""
    url = DatabaseURL.parse(text)
    shown = f"{url} {url!r} {[url]} {url:}"
    assert url.dialect in shown
    assert SECRET not in shown
    assert "dbhost" not in shown


def test_a_certificate_file_that_is_not_there_is_named() -> None:
    """It would look like a database that is away, and be waited for."""
    with pytest.raises(ConfigurationError, match="sslrootcert names a file that is not there"):
        DatabaseURL.parse("postgresql://u@h/x?sslmode=verify-full&sslrootcert=/nowhere/ca.crt")
