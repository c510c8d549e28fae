"""Database URLs as platforms and people write them: the migration and the service's pool accept each form."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.evidence import versions
from tests.support.fleet import fleet, migrate, until_all_ready
from tests.support.project import head
from tests.support.servers import Server, program, self_signed

pytestmark = pytest.mark.acceptance

ROLE = f"url_owner_{os.getpid()}"


def works(url: str) -> None:
    """Assert that `./migrate.sh upgrade` and an instance of the service, pool included, can use `url`."""
    code, output = migrate("upgrade", url=url)
    assert code == 0, output
    with fleet(1, url) as (one,):
        until_all_ready([one])
        opened = one.post("/accounts", {"name": "Till", "currency": "EUR"})
        assert opened.status_code == 201, opened.text
        read = one.get(opened.headers["Location"])
        assert (read.status_code, read.json()["name"]) == (200, "Till"), read.text


FORMS = {
    "postgres": "postgres://postgres@{host}/{name}",
    "a driver of SQLAlchemy's": "postgresql+asyncpg://postgres@{host}/{name}",
    "another driver of SQLAlchemy's": "postgresql+psycopg://postgres@{host}/{name}",
    "everything in the query": "postgresql:///?host={address}&port={port}&user=postgres&dbname={name}",
    "a unix socket": "postgresql://postgres@/{name}?host={socket}&port={port}",
    "a unix socket as the host": "postgresql://postgres@{quoted_socket}:{port}/{name}",
    "several hosts, the first refuses": "postgresql://postgres@127.0.0.1:1,{host}/{name}",
    "several hosts, the primary wanted": "postgresql://postgres@{host},{host}/{name}?target_session_attrs=read-write",
    "an application name": "postgresql://postgres@{host}/{name}?application_name=till",
    "options of the server": "postgresql://postgres@{host}/{name}?options=-c%20search_path%3Dpublic",
    "parameters of libpq": "postgresql://postgres@{host}/{name}?channel_binding=prefer&connect_timeout=9&keepalives=1",
    "TLS if there is any": "postgresql://postgres@{host}/{name}?sslmode=prefer&gssencmode=disable",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_url_in_this_form_works(server: Server, database_url: str, form: str) -> None:
    """The URL has this form: `upgrade` brings the database to head, and an instance writes and reads a row."""
    parts = urlsplit(database_url)
    socket = urlsplit(server.socket_url("postgres")).query.partition("host=")[2].partition("&")[0]
    works(
        form.format(
            host=f"{server.host}:{server.port}",
            address=server.host,
            port=server.port,
            name=parts.path[1:],
            socket=socket,
            quoted_socket=socket.replace("/", "%2F"),
        )
    )
    assert versions(database_url) == [head()]


PASSWORDS = {
    "@ as %40": ("p@ss", "p%40ss"),
    "a raw @": ("p@ss", "p@ss"),
    "% as %25": ("100%", "100%25"),
    "a raw %": ("100% sure", "100% sure"),
    "all of them encoded": ("a@b%c/d#e?f:g", "a%40b%25c%2Fd%23e%3Ff%3Ag"),
    "a raw : and =": ("a:b=c", "a:b=c"),
    "letters beyond ASCII": ("pässwörd", "p%C3%A4ssw%C3%B6rd"),
}


@pytest.fixture
def role(server: Server) -> Iterator[str]:
    """Create a role that needs a password and has none yet."""
    server.execute(f"CREATE ROLE {ROLE} LOGIN")
    yield ROLE
    server.execute(f"DROP ROLE {ROLE}")


@pytest.fixture
def owned_url(server: Server, role: str, database_url: str) -> str:
    """Return an empty database that belongs to the role; it is dropped before the role is."""
    server.execute(f'ALTER DATABASE "{urlsplit(database_url).path[1:]}" OWNER TO {role}')
    return database_url


@pytest.mark.parametrize(("password", "written"), PASSWORDS.values(), ids=PASSWORDS)
def test_a_password_with_special_characters_works(server: Server, owned_url: str, password: str, written: str) -> None:
    """The password is percent-encoded, or raw where that is not ambiguous: `upgrade` and an instance use the URL."""
    server.execute(f"ALTER ROLE {ROLE} PASSWORD '{password}'")
    works(f"postgresql://{ROLE}:{written}@{server.host}:{server.port}{urlsplit(owned_url).path}")


@pytest.fixture
def tls(debian_postgres: Server) -> Iterator[str]:
    """Yield the URL of an empty database, without parameters, on a server that accepts only TLS."""
    with debian_postgres.database(f"tls_{os.getpid()}") as url:
        yield url


@pytest.fixture
def certificate(debian_postgres: Server) -> Path:
    """Return the self-signed certificate of that server."""
    assert debian_postgres.socket_dir
    return debian_postgres.socket_dir / "server.crt"


def test_a_url_that_requires_tls_works(tls: str) -> None:
    """`sslmode=require`, as managed databases write it: `upgrade` and an instance connect with TLS."""
    works(f"{tls}?sslmode=require")


def test_a_url_that_requires_channel_binding_works(tls: str) -> None:
    """`channel_binding=require`, as Neon writes it: `upgrade` and an instance connect."""
    works(f"{tls}?sslmode=require&channel_binding=require")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_url_that_verifies_the_certificate_works(tls: str, certificate: Path, mode: str) -> None:
    """`sslrootcert` names the server's certificate: `upgrade` and an instance connect and verify it."""
    works(f"{tls.replace('127.0.0.1', 'localhost')}?sslmode={mode}&sslrootcert={certificate}")


def test_the_certificate_of_another_server_is_refused(tls: str, tmp_path: Path) -> None:
    """`sslrootcert` names another certificate: `upgrade` exits with 5 in one line that names the parameter."""
    other, _ = self_signed(program("openssl", "apt-get install openssl"), tmp_path)
    code, output = migrate("upgrade", url=f"{tls}?sslmode=verify-full&sslrootcert={other}")
    assert (code, output.count("\n")) == (5, 1)
    assert output.startswith("AccessRefused: the server's certificate does not verify")
    assert "correct sslrootcert" in output


def test_a_connection_without_tls_is_refused(tls: str) -> None:
    """A server that accepts only TLS refuses `sslmode=disable`: `upgrade` exits with 5 in one line."""
    code, output = migrate("upgrade", url=f"{tls}?sslmode=disable")
    assert (code, output.count("\n")) == (5, 1)
    assert output.startswith("AccessRefused: login refused while connecting to 127.0.0.1:")
    assert "the server does not accept this user from this host" in output
