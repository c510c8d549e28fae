"""A URL gives the same session on asyncpg, psycopg and psycopg2, with TLS as strict as it says."""

import asyncio
import ssl

import pytest
import sqlalchemy as sa

from api.migrations.databases.postgres.connection import revision_connection
from api.migrations.errors import MigrationError
from api.migrations.urls.database_url import DatabaseURL
from tests.support.servers import Server

SESSION = """
    SELECT current_schemas(false)::text || ' ' || current_setting('work_mem') || ' ' ||
           current_setting('statement_timeout') || ' ' || current_setting('application_name')
"""
WRITTEN = (
    "ssl=false&command_timeout=5&timeout=9&prepared_statement_cache_size=0&statement_cache_size=0&async_fallback=true"
    "&search_path=pg_catalog,%20public&statement_timeout=7s&options=-c%20work_mem=9MB&application_name=mine"
)


async def ask(url: DatabaseURL, sql: str) -> object:
    """Return the answer of a session on the driver of the URL."""
    if url.revision_driver != "asyncpg":
        return await asyncio.to_thread(_ask, url, sql)
    connection = await url.connect()
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def _ask(url: DatabaseURL, sql: str) -> object:
    with revision_connection(url) as connection:
        return connection.scalar(sa.text(sql.replace(":", r"\:")))


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "psycopg2"])
async def test_a_url_as_sqlalchemy_writes_it_gives_the_same_session(database_url: str, driver: str) -> None:
    """Arguments of SQLAlchemy and settings of the server in a URL: each driver opens a session with these settings."""
    url = DatabaseURL.parse(database_url.replace("postgresql://", f"postgresql+{driver}://") + f"?{WRITTEN}")
    assert await ask(url, SESSION) == "{pg_catalog,public} 9MB 7s mine"


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_the_authorities_of_the_system_verify_the_server(
    debian_postgres: Server, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    """sslrootcert=system accepts a server's certificate if the system trusts its authority, and no other."""
    text = debian_postgres.superuser_url.replace("postgresql://", f"postgresql+{driver}://")
    url = DatabaseURL.parse(f"{text}?sslrootcert=system")
    with pytest.raises((ssl.SSLCertVerificationError, MigrationError)):
        await ask(url, "SELECT 1")
    assert debian_postgres.socket_dir is not None
    # its certificate is self-signed
    monkeypatch.setenv("SSL_CERT_FILE", str(debian_postgres.socket_dir / "server.crt"))
    assert await ask(url, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is True
