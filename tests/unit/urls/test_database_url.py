"""Database URLs are parsed in the forms that platforms use, and their secrets are never shown."""

import re
import ssl
import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL

from api.migrations.errors import ConfigurationError
from api.migrations.urls.database_url import DatabaseURL
from api.migrations.urls.postgres import for_libpq
from tests.support.servers import program, self_signed

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
def test_a_platform_url_becomes_one_that_asyncpg_accepts(text: str, dsn: str) -> None:
    """A platform's URL becomes one whose scheme, credentials and hosts asyncpg accepts."""
    url = DatabaseURL.parse(text)
    assert (url.dialect, url.dsn) == ("postgresql", dsn)


@pytest.mark.parametrize("written", [SECRET + "@%", "a/b#c?d", "ü €", "100%", "+ +"])
def test_any_encoded_password_reaches_the_driver(written: str) -> None:
    """The driver gets the password that was percent-encoded in the URL."""
    encoded = "".join(f"%{byte:02X}" for byte in written.encode())
    password = urlsplit(DatabaseURL.parse(f"postgresql://u:{encoded}@h/d").dsn).password
    assert unquote(password or "") == written


def test_a_unix_socket_is_a_parameter() -> None:
    """A unix socket's folder in the query of a URL is the host."""
    url = DatabaseURL.parse("postgresql://u:p@/d?host=/cloudsql/project:region:db&port=5433")
    assert parse_qs(urlsplit(url.dsn).query) == {"host": ["/cloudsql/project:region:db"], "port": ["5433"]}


def test_parameters_of_other_clients_are_dropped(tmp_path: Path) -> None:
    """Parameters of other clients are dropped, because the server would refuse them as settings."""
    dropped = "channel_binding=require&pgbouncer=true&connection_limit=5&gssencmode=disable&keepalives_idle=30"
    (tmp_path / "a b").touch()
    ours = f"sslmode=verify-full&application_name=x&sslrootcert={tmp_path}/a b"
    url = DatabaseURL.parse(f"postgresql://u:p@h/d?{dropped}&pool_timeout=1&{ours}")
    kept = {"sslmode": ["verify-full"], "application_name": ["x"], "sslrootcert": [f"{tmp_path}/a b"]}
    assert parse_qs(urlsplit(url.dsn).query) == kept


OF_SQLALCHEMY = """
    prepared_statement_cache_size=0 statement_cache_size=0 prepared_statement_name_func=f command_timeout=9
    async_fallback=true max_cached_statement_lifetime=0 max_cacheable_statement_size=0
""".split()


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql+psycopg"])
def test_arguments_of_sqlalchemy_and_asyncpg_are_not_sent_to_the_server(scheme: str) -> None:
    """SQLAlchemy's and asyncpg's arguments in a URL are dropped for both drivers, and settings of the server kept."""
    query = "&".join([*OF_SQLALCHEMY, "application_name=x", "options=-c%20work_mem=9MB"])
    url = DatabaseURL.parse(f"{scheme}://u:p@h/d?{query}")
    assert url.parameters == {"application_name": "x", "options": "-c work_mem=9MB"}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("ssl=require", "require"),
        ("ssl=true", "require"),
        ("ssl=false", "disable"),
        ("ssl=verify-full", "verify-full"),
        ("sslmode=VERIFY_CA", "verify-ca"),
        ("ssl=true&sslmode=verify-full", "verify-full"),
        ("sslmode=prefer&ssl=on", "require"),
        ("sslrootcert=system", "verify-full"),
        ("application_name=x", None),
    ],
)
def test_ssl_and_sslmode_give_the_strictest_mode(query: str, expected: str | None) -> None:
    """Of asyncpg's `ssl` and libpq's `sslmode` the strictest applies, under the name that both drivers know."""
    parameters = DatabaseURL.parse(f"postgresql://u:p@h/d?{query}").parameters
    assert (parameters.get("sslmode"), "ssl" in parameters) == (expected, False)


def test_libpq_gets_settings_of_the_server_as_options() -> None:
    """Settings that asyncpg sends to the server reach psycopg in `options`, in psycopg's own reading of the URL."""
    query = "search_path=a,%20b&statement_timeout=5&database=e&sslmode=require&options=-c%20work_mem=9MB"
    url = DatabaseURL.parse(f"postgresql://u:p@h:7/?{query}")
    assert conninfo_to_dict(for_libpq(url.dsn)) == {
        **{"user": "u", "password": "p", "host": "h", "port": "7", "dbname": "e", "sslmode": "require"},
        "options": "-c work_mem=9MB -c search_path=a,\\ b -c statement_timeout=5",
    }
    socket = DatabaseURL.parse("postgresql:///d?host=/run/pg&search_path=a")
    assert conninfo_to_dict(for_libpq(socket.dsn)) == {
        **{"dbname": "d", "host": "/run/pg", "options": "-c search_path=a"}
    }


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("schema=x", "parameter schema. To fix: name the schema with search_path=NAME"),
        ("currentSchema=x", "parameter currentSchema. To fix: name the schema with search_path=NAME"),
        ("server_settings=x", "server_settings is an argument in Python code"),
        (f"ssl={SECRET}", "ssl has an unknown value. To fix: use one of disable, "),
        (f"sslmode={SECRET}", "sslmode has an unknown value. To fix: use one of disable, "),
        ("sslmode=require&sslrootcert=system", "To fix: set sslmode=verify-full"),
        (f"timeout={SECRET}", "timeout is not a whole number of seconds"),
    ],
)
def test_a_parameter_that_would_be_misread_is_refused(query: str, words: str) -> None:
    """A schema as other clients name it, an unknown TLS mode and the like are refused with the remedy."""
    with pytest.raises(ConfigurationError, match=re.escape(words)) as refused:
        DatabaseURL.parse(f"postgresql://u:{SECRET}@h/d?{query}")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://u:geh3im@db/d", " to db:5432"),
        ("postgresql://u:geh3im@db1,db2:5433/d", " to db1:5432, db2:5433"),
        ("postgresql://u:geh3im@[::1]/d", " to [::1]:5432"),
        ("postgresql://u:geh3im@/d?host=a,b&port=1,2", " to a:1, b:2"),
        ("postgresql://u:geh3im@/d?host=/cloudsql/p:r:i", " to /cloudsql/p:r:i"),
        ("postgresql://u:geh3im@/d?service=s", ""),
        ("mysql://u:geh3im@db/d", " to db:3306"),
        ("mysql://u:geh3im@/d?socket=/run/my.sock", " to /run/my.sock"),
        ("sqlite:///x.db", ""),
    ],
)
def test_messages_name_host_and_port(text: str, expected: str) -> None:
    """The phrase for messages names the hosts and ports of the URL, and neither user nor password."""
    assert DatabaseURL.parse(text).connecting == f"connecting{expected}"


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_slash_in_a_password_is_not_taken_for_the_path(scheme: str) -> None:
    """A password such as 12/3 without encoding is refused, because messages would name user and 12 as host and port."""
    with pytest.raises(ConfigurationError, match=r"contains '@' after '/'.* / is %2F"):
        DatabaseURL.parse(f"{scheme}://u:12/3@h/d")


@pytest.mark.parametrize(
    ("query", "seconds"),
    [("", 5), ("?connect_timeout=17", 17), ("?connect_timeout=0", 5), ("?timeout=9", 9)],
)
def test_the_connect_timeout_is_used(query: str, seconds: float) -> None:
    """The URL's connect_timeout, or asyncpg's timeout, is used, and 0 means the default rather than no timeout."""
    url = DatabaseURL.parse(f"postgresql://u:p@h/d{query}")
    assert url.connect_timeout_seconds == seconds
    assert "connect_timeout" not in url.dsn


def test_an_empty_parameter_is_ignored() -> None:
    """A parameter with an empty value is ignored."""
    assert DatabaseURL.parse("postgresql://u:p@h/d?sslmode=&sslrootcert=").dsn == "postgresql://u:p@h/d"


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        *(("mysql", text) for text in ("mysql://u:p@h/d", "mariadb+asyncmy://u:p@h/d")),
        *(("sqlite", text) for text in ("sqlite:///x.db", "sqlite+aiosqlite:////tmp/x.db")),
    ],
)
async def test_other_databases_are_recognised_and_not_opened(dialect: str, text: str) -> None:
    """MySQL's and SQLite's URLs are recognised, and `connect`, which is for PostgreSQL, refuses them."""
    url = DatabaseURL.parse(text)
    assert url.dialect == dialect
    with pytest.raises(ConfigurationError, match=dialect):
        await url.connect()


MALFORMED = """
    geh3im oracle://u:geh3im@h/d u:geh3im@h:5432/d https://u:geh3im@h/d postgresql:u:geh3im@h/d
    postgresql://u:geh3im@h:port/d postgresql://u:geh3im@h:0/d postgresql://u:geh3im@h:65536/d postgresql://u:geh3im@h:²/d
    postgresql://u:geh3im@h1:5432,h2:x/d postgresql://u:geh3im@[::1/d postgresql://u:geh3im@[geh3im]/d
    postgresql://u:[geh3im]@h/d postgresql://u:geh3im#1@h/d postgresql://u:geh3im/1@h/d postgresql://u:1?geh3im@h/d
    postgresql://u:geh3im℀@h/d postgresql://u:geh3im@h/d?sslmode postgresql://u:p@h/d?geh3im
    postgresql://u:geh3im@h/d?connect_timeout=soon postgresql://u:p@h/d?connect_timeout=geh3im
""".split()


@pytest.mark.parametrize("text", ["", *MALFORMED])
def test_a_malformed_url_is_refused_without_being_shown(text: str) -> None:
    """The error about a malformed URL names setting and form, and quotes nothing of the URL."""
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
    """No text form of a URL has a password or a host, also not in a traceback."""
    url = DatabaseURL.parse(text)
    shown = f"{url} {url!r} {[url]} {url:}"
    assert url.dialect in shown
    assert SECRET not in shown
    assert "dbhost" not in shown


def test_a_missing_certificate_file_is_refused_by_name() -> None:
    """A URL with a missing certificate file is refused instead of retried, and the error names the file."""
    with pytest.raises(ConfigurationError, match="sslrootcert names a file that does not exist"):
        DatabaseURL.parse("postgresql://u@h/x?sslmode=verify-full&sslrootcert=/nowhere/ca.crt")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a certificate to trust."""
    return self_signed(program("openssl", "apt-get install openssl"), tmp_path_factory.mktemp("authority"))[0]


MYSQL = [
    ("mysql://u:p@h/d", "mysql+asyncmy://u:p@h/d?charset=utf8mb4"),
    ("mariadb://u:p@h:3307/d", "mysql+asyncmy://u:p@h:3307/d?charset=utf8mb4"),
    ("mysql+pymysql://u:p@h/d?charset=latin1", "mysql+asyncmy://u:p@h/d?charset=utf8mb4"),
    ("  MYSQL://u:p@h/d\n", "mysql+asyncmy://u:p@h/d?charset=utf8mb4"),
    ("mysql://u:p@ss@h/d", "mysql+asyncmy://u:p%40ss@h/d?charset=utf8mb4"),
    ("mysql://u%40t:50%25%2F@h/d", "mysql+asyncmy://u%40t:50%25%2F@h/d?charset=utf8mb4"),
    ("mysql://h/d?reconnect=true&serverTimezone=UTC", "mysql+asyncmy://h/d?charset=utf8mb4"),
    ("mysql://u:p@[::1]:3307/d", "mysql+asyncmy://u:p@[::1]:3307/d?charset=utf8mb4"),
]


@pytest.mark.parametrize(("text", "expected"), MYSQL)
def test_a_mysql_url_names_the_asynchronous_driver(text: str, expected: str) -> None:
    """A MySQL URL gets the asynchronous driver, whatever driver it names, and a charset with all of Unicode."""
    assert DatabaseURL.parse(text).sqlalchemy().render_as_string(hide_password=False) == expected


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:///relative.db", "relative.db"),
        ("sqlite+aiosqlite:///var/app.db", "var/app.db"),
        ("sqlite:////srv/a b/50%.db", "/srv/a b/50%.db"),
    ],
)
def test_three_slashes_are_a_relative_path_and_four_an_absolute_one(text: str, path: str) -> None:
    """A SQLite URL with three slashes has a relative path, one with four an absolute path, and neither is decoded."""
    assert DatabaseURL.parse(text).sqlalchemy() == URL.create("sqlite+aiosqlite", database=path)


def test_a_postgresql_url_for_sqlalchemy_names_only_the_driver() -> None:
    """SQLAlchemy's URL of PostgreSQL names only the driver, because `connect` has the address."""
    assert str(DatabaseURL.parse(f"postgresql://u:{SECRET}@h/d").sqlalchemy()) == "postgresql+asyncpg://"


@pytest.mark.parametrize("text", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=memory"])
def test_a_database_in_memory_is_refused(text: str) -> None:
    """A SQLite database in memory is refused, because migrations and service would use different ones."""
    with pytest.raises(ConfigurationError, match="each connection would have its own"):
        DatabaseURL.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sqlite://relative.db", "three slashes"),
        ("sqlite:///x.db?mode=ro", "parameters"),
        (f"mysql://u:{SECRET}@h", "no database"),
        (f"mysql://u:{SECRET}@h/", "no database"),
        (f"mysql://u:{SECRET}@h1,h2/d", "several hosts"),
        (f"mysql://u:{SECRET}@h:port/d", "port"),
        (f"mysql://u:{SECRET}/1@h/d", "port"),
        (f"mysql://u:{SECRET}#1@h/d", "'#'"),
        (f"mysql://u:{SECRET}@h/d?ssl-mode={SECRET}", "ssl_mode has an unknown value"),
        (f"mysql://u:{SECRET}@h/d?sslverify=true", "TLS"),
        (f"mysql://u:{SECRET}@h/d?tls=skip-verify", "TLS"),
        (f"mysql://u:{SECRET}@h/d?ssl-ca=/nowhere/{SECRET}.pem", "ssl_ca names a file that does not exist"),
        (f"mysql://u:{SECRET}@h/d?connect_timeout={SECRET}", "connect_timeout"),
    ],
)
def test_a_malformed_mysql_or_sqlite_url_is_refused_without_being_shown(text: str, reason: str) -> None:
    """The error about a malformed MySQL or SQLite URL shows that database's form and nothing of the URL."""
    with pytest.raises(ConfigurationError) as refused:
        DatabaseURL.parse(text)
    message = str(refused.value)
    assert reason in message
    assert f"To fix: use the form {text.partition(':')[0]}://" in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("query", "verify", "host_name"),
    [
        ("ssl-mode=REQUIRED", ssl.CERT_NONE, False),
        ("ssl_mode=required", ssl.CERT_NONE, False),
        ("sslmode=require", ssl.CERT_NONE, False),
        ("ssl=true", ssl.CERT_NONE, False),
        ("useSSL=true", ssl.CERT_NONE, False),
        ("ssl-mode=VERIFY_CA", ssl.CERT_REQUIRED, False),
        ("ssl-mode=VERIFY_IDENTITY", ssl.CERT_REQUIRED, True),
        ("sslmode=verify-full", ssl.CERT_REQUIRED, True),
        ("ssl=true&sslaccept=strict", ssl.CERT_REQUIRED, True),
        ('ssl={"rejectUnauthorized": true}', ssl.CERT_REQUIRED, True),
        ("ssl-ca={ca}", ssl.CERT_REQUIRED, True),
        ("ssl-mode=REQUIRED&ssl-ca={ca}", ssl.CERT_REQUIRED, False),
        ("sslmode=verify-full&sslrootcert={ca}", ssl.CERT_REQUIRED, True),
    ],
)
def test_tls_is_as_strict_as_the_url_requires(authority: Path, query: str, verify: int, host_name: bool) -> None:
    """Encryption, the check of the authority and that of the host are as strict as the URL requires."""
    given = query.replace("{ca}", str(authority))
    context = DatabaseURL.parse(f"mysql://u:p@h/d?{given}").connect_args()["ssl"]
    assert (context.verify_mode, context.check_hostname) == (verify, host_name)


@pytest.mark.parametrize("query", ["", "?ssl-mode=DISABLED", "?ssl=false", "?ssl_mode=PREFERRED"])
def test_a_mysql_connection_is_plain_unless_tls_is_required(query: str) -> None:
    """A MySQL connection uses TLS only if the URL requires it, because the driver has no "preferred"."""
    assert "ssl" not in DatabaseURL.parse(f"mysql://u:p@h/d{query}").connect_args()


def test_the_driver_gets_socket_time_and_password_beside_the_url() -> None:
    """The driver gets socket, timeout and password as arguments, with the password as UTF-8 bytes."""
    url = DatabaseURL.parse("mysql://u:%E2%82%AC@/d?unix_socket=/cloudsql/p:r:i&connect_timeout=7")
    expected = {"connect_timeout": 7.0, "unix_socket": "/cloudsql/p:r:i", "password": "€".encode()}
    assert url.connect_args() == expected
    assert DatabaseURL.parse("sqlite:///x.db").connect_args() == {}


def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    """A certificate file without a certificate is refused without the library's text."""
    (tmp_path / "ca.pem").write_text(SECRET)
    url = DatabaseURL.parse(f"mysql://u:p@h/d?ssl-ca={tmp_path}/ca.pem")
    with pytest.raises(ConfigurationError, match=r"certificate or key .* cannot be read\. To fix: ") as refused:
        url.connect_args()
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "driver", "extra"), [("mariadb://h/d", "asyncmy", "mysql"), ("sqlite:///x.db", "aiosqlite", "sqlite")]
)
def test_the_error_about_a_missing_driver_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, text: str, driver: str, extra: str
) -> None:
    """The error about a missing driver says how to install it alone and as an extra of this project."""
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(ConfigurationError, match=rf"To fix: pip install {driver} .*\[{extra}\]"):
        DatabaseURL.parse(text).sqlalchemy()
