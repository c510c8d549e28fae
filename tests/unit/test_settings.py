"""The settings have documented defaults, contradictions are refused, and `.env.example` lists all of them."""

import os
import re
import traceback
from pathlib import Path

import pytest

from api.migrations.errors import ConfigurationError
from api.migrations.settings import OPEN_PATHS, MigrationSettings, default_instance
from api.settings import Settings
from tests.support.variables import variables

EXAMPLE = Path(__file__).resolve().parents[2] / ".env.example"
URL = "postgresql://u:geh3im@dbhost/d"
DEFAULTS = """
    strategy=auto redis_ttl_seconds=30 startup_mode=gate wait_seconds=300 run_seconds=300 lock_timeout_seconds=2
    statement_timeout_seconds=0 idle_seconds=60 drop_invalid_indexes=False backup_dir=backups backup_keep=5
    backup_seconds=3600 poll_seconds=1 target=head on_ahead=serve on_failure=exit drain_seconds=0 lock_name=fastapi
    lease_seconds=15 version_table=alembic_version alembic_config=alembic.ini alembic_section=alembic
    log_format=console show_errors=False
""".split()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's own .env."""
    monkeypatch.chdir(tmp_path)


def test_the_defaults_are_those_of_the_documents() -> None:
    """The settings have the documented defaults, and a setting without a default has no value."""
    values = MigrationSettings.load().model_dump(exclude={"instance", "open_paths"})
    assert [f"{name}={value}".removesuffix(".0") for name, value in values.items() if value is not None] == DEFAULTS
    assert MigrationSettings.load().open_paths == OPEN_PATHS


def test_an_instance_is_named_by_host_and_process() -> None:
    """The default name of an instance is its host and process, so that people find the lock holder."""
    assert MigrationSettings.load().instance == default_instance()


def test_the_example_lists_every_setting_and_nothing_else() -> None:
    """`.env.example` lists every setting once and nothing else."""
    shown = re.findall(r"^(?:# ?)?([A-Z][A-Z0-9_]+)=", EXAMPLE.read_text(), re.MULTILINE)
    service = {field.upper() for field in Settings.model_fields}
    assert len(shown) == len(set(shown))
    assert set(shown) == variables() | service


def test_the_example_is_a_valid_env_file(tmp_path: Path) -> None:
    """An unchanged copy of `.env.example` as `.env` gives the default settings."""
    (tmp_path / ".env").write_text(EXAMPLE.read_text())
    copied = MigrationSettings.load().model_dump(exclude={"database_url", "instance"})
    (tmp_path / ".env").unlink()
    assert copied == MigrationSettings.load().model_dump(exclude={"database_url", "instance"})


def test_empty_values_of_an_env_file_mean_the_defaults(tmp_path: Path) -> None:
    """A `.env` with an empty value for each setting gives the defaults."""
    lines = [f"{name}=" for name in variables()]
    (tmp_path / ".env").write_text("\n".join(lines))
    assert MigrationSettings.load().model_dump() == MigrationSettings.model_construct().model_dump()


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment wins over `.env`, and the caller's values win over both."""
    (tmp_path / ".env").write_text("MIGRATION_POLL_SECONDS=7\nMIGRATION_RUN_SECONDS=70\n")
    monkeypatch.setenv("MIGRATION_POLL_SECONDS", "8")
    settings = MigrationSettings.load(run_seconds=60)
    assert (settings.poll_seconds, settings.run_seconds) == (8, 60)


@pytest.mark.parametrize(
    ("values", "both"),
    [
        ({"wait_seconds": 299}, ("MIGRATION_WAIT_SECONDS", "MIGRATION_RUN_SECONDS")),
        ({"run_seconds": 301}, ("MIGRATION_WAIT_SECONDS", "MIGRATION_RUN_SECONDS")),
        (
            {"strategy": "kubernetes", "lease_seconds": 20, "wait_seconds": 20, "run_seconds": 20},
            ("MIGRATION_LEASE_SECONDS", "MIGRATION_WAIT_SECONDS"),
        ),
        ({"history_table": "alembic_version"}, ("MIGRATION_HISTORY_TABLE", "MIGRATION_VERSION_TABLE")),
        ({"history_table": "ALEMBIC_VERSION"}, ("MIGRATION_HISTORY_TABLE", "differ in case only", "SQLite")),
        ({"version_table": "v" * 60}, ("MIGRATION_HISTORY_TABLE", "MIGRATION_VERSION_TABLE")),
        ({"bootstrap": "create_all", "baseline": "base"}, ("MIGRATION_BOOTSTRAP", "MIGRATION_BASELINE")),
        ({"strategy": "redis"}, ("MIGRATION_STRATEGY", "MIGRATION_REDIS_URL")),
        (
            {"strategy": "redis", "redis_url": "redis://h", "redis_ttl_seconds": 151},
            ("MIGRATION_REDIS_TTL_SECONDS", "MIGRATION_WAIT_SECONDS"),
        ),
    ],
)
def test_a_contradiction_names_both_variables(values: dict[str, object], both: tuple[str, str]) -> None:
    """The error about two contradicting settings names both on one line, with a remedy."""
    with pytest.raises(ConfigurationError, match=r"^MIGRATION_.*\. To fix: .*$") as refused:
        MigrationSettings.load(**values)
    assert [name for name in both if name not in str(refused.value)] == []
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("STRATEGY", "zookeeper", "'auto', 'advisory_lock', 'redis', 'kubernetes', 'job' or 'off'"),
        ("STARTUP_MODE", "open", "'gate' or 'block'"),
        ("TARGET", "base", "'head' or 'heads'"),
        ("BOOTSTRAP", "yes", "'create_all'"),
        ("ON_AHEAD", "downgrade", "'serve' or 'refuse'"),
        ("ON_FAILURE", "ignore", "'exit' or 'hold'"),
        ("WAIT_SECONDS", "5m", "='5m' is invalid: Input should be a valid number"),
        ("WAIT_SECONDS", "0", "greater than 0"),
        ("WAIT_SECONDS", "inf", "less than or equal"),
        ("RUN_SECONDS", "nan", "less than or equal"),
        ("LOCK_TIMEOUT_SECONDS", "-1", "greater than or equal to 0"),
        ("POLL_SECONDS", "0", "0.05"),
        ("REDIS_URL", "http://host", "redis://user:password@host"),
        ("REDIS_TTL_SECONDS", "2.9", "greater than or equal to 3"),
        ("VERSION_TABLE", "v" * 64, "63 bytes"),
        ("VERSION_TABLE", " ", "=' ' is blank. To fix: "),
        ("INSTANCE", " ", "blank"),
        ("LOCK_NAME", " ", "blank"),
        ("LEASE_NAME", "Ledger", "lower-case letters"),
        ("LEASE_NAME", "ledger_migrations", "lower-case letters"),
        ("LEASE_NAME", "ledger-", "lower-case letters"),
        ("LEASE_NAME", "l" * 254, "253"),
        ("LEASE_NAMESPACE", "a.b", "lower-case letters"),
        ("LEASE_SECONDS", "2", "greater than or equal to 3"),
        ("OPEN_PATHS", "/health", "JSON list"),
    ],
)
def test_a_wrong_value_names_the_variable_and_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, word: str
) -> None:
    """The error about a wrong value names its variable and the allowed values on one line."""
    monkeypatch.setenv(f"MIGRATION_{name}", value)
    with pytest.raises(ConfigurationError) as refused:
        MigrationSettings.load()
    assert f"MIGRATION_{name}" in str(refused.value)
    assert word in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_error_without_a_url_says_what_to_set() -> None:
    """The error without a database URL names DATABASE_URL and the form of a URL."""
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL is not set.*postgresql://user:password@host"):
        MigrationSettings.load().url()


def test_migration_database_url_wins_over_database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """MIGRATION_DATABASE_URL, such as a direct endpoint, wins over DATABASE_URL."""
    monkeypatch.setenv("DATABASE_URL", URL)
    assert MigrationSettings.load().url().dsn.endswith("@dbhost/d")
    monkeypatch.setenv("MIGRATION_DATABASE_URL", "postgres://owner@direct/d")
    assert MigrationSettings.load().url().dsn == "postgresql://owner@direct/d"


def test_both_urls_may_be_given_in_code() -> None:
    """Both URLs may be passed to `load` by their names in lower case."""
    app, owner = "postgresql://app@h/d", "postgresql://own@h/d"
    assert MigrationSettings.load(database_url=app, migration_database_url=owner).url().dsn == owner
    assert MigrationSettings.load(database_url=app).url().dsn == app


@pytest.mark.parametrize("name", ["DATABASE_URL", "MIGRATION_DATABASE_URL"])
def test_the_error_about_a_malformed_url_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The error about a malformed URL names the one of the two variables that has it."""
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv(name, "nonsense")
    with pytest.raises(ConfigurationError, match=f"^{name} is not a database URL"):
        MigrationSettings.load().url()


@pytest.mark.parametrize("name", ["DATABASE_URL", "MIGRATION_DATABASE_URL"])
def test_a_url_is_read_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """A variable with the suffix _FILE names a file with the URL, and the service's does not hide the migrations'."""
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "DATABASE_URL"))
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / name))
    (tmp_path / name).write_text("\ufeff  postgres://owner:p@direct/d\n")
    assert MigrationSettings.load().url().dsn == "postgresql://owner:p@direct/d"


def test_the_migrations_url_and_the_file_of_the_service_s_go_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """MIGRATION_DATABASE_URL and DATABASE_URL_FILE are two URLs, of which the first is the migrations'."""
    (tmp_path / "url").write_text(URL)
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("MIGRATION_DATABASE_URL", "postgres://owner@direct/d")
    settings = MigrationSettings.load()
    service = settings.service_url()
    assert service is not None
    assert (settings.url().dsn, service.dsn) == ("postgresql://owner@direct/d", URL)


@pytest.mark.parametrize("name", ["DATABASE_URL", "MIGRATION_DATABASE_URL"])
def test_a_url_and_its_file_exclude_each_other(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A variable and its file are both set: the error names both."""
    monkeypatch.setenv(name, URL)
    monkeypatch.setenv(f"{name}_FILE", "/run/secrets/url")
    with pytest.raises(ConfigurationError, match=f"^{name} and {name}_FILE are both set. To fix: unset one of them$"):
        MigrationSettings.load()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ", which cannot be read: No such file or directory. To fix: correct the path"),
        (b" \n", ", which is empty. To fix: write postgresql://"),
        (b"\xff\xfe", ", which is not UTF-8. To fix: save it as UTF-8"),
        (b"geh3im", r" is not a database URL\. To fix: "),
    ],
)
def test_a_file_without_a_url_is_refused_by_name(tmp_path: Path, content: bytes | None, words: str) -> None:
    """A file that is missing, empty or without a URL is refused; the error names variable and path, not the content."""
    path = tmp_path / "url"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"^DATABASE_URL_FILE.*{path}.*{words}") as refused:
        MigrationSettings.load(database_url_file=path).url()
    assert "geh3im" not in str(refused.value)


def test_the_function_for_the_password_is_a_function_or_its_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function belongs to the migrations' URL, also for another version table; a password instead is refused."""
    settings = MigrationSettings.load(database_url=URL, fetch_password=default_instance)
    assert settings.for_version_table("v", None).url().fetch_password is default_instance
    assert "default_instance" not in f"{settings!r} {settings.url()!r}"
    monkeypatch.setenv("MIGRATION_FETCH_PASSWORD", "shop.cloud:token")
    assert (
        MigrationSettings.load(database_url=URL).for_version_table("v", None).url().fetch_password == "shop.cloud:token"
    )
    monkeypatch.setenv("MIGRATION_FETCH_PASSWORD", "geh3im")
    with pytest.raises(ConfigurationError, match=r"^MIGRATION_FETCH_PASSWORD is not the import path of a ") as refused:
        MigrationSettings.load()
    assert "geh3im" not in str(refused.value)


def test_settings_show_no_secret() -> None:
    """No text form of the settings and of their URLs shows a password or a host."""
    redis_url = "redis://u:geh3im@dbhost:1/0"
    settings = MigrationSettings.load(database_url=URL, migration_database_url=URL, redis_url=redis_url)
    shown = f"{settings} {settings!r} {settings.url()} {settings.model_dump()} {settings.model_dump_json()}"
    assert "geh3im" not in shown
    assert "dbhost" not in shown


@pytest.mark.parametrize(
    "url",
    """
    redis://h redis://:p%40ss@h:6379/0?ssl_cert_reqs=none rediss://user:pw@h.example:6380 unix:///run/redis.sock?db=1
    """.split(),
)
def test_a_redis_url_may_use_tcp_tls_or_a_socket(url: str) -> None:
    """MIGRATION_REDIS_URL accepts the schemes redis, rediss and unix."""
    redis_url = MigrationSettings.load(redis_url=url).redis_url
    assert redis_url is not None
    assert redis_url.get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    """
    geh3im redis:// redis:///0 redis://u:geh3im@h:port redis://u:geh3im@h:99999 redis://u:geh3im@h/name
    redis://u:geh3#im@h:1/0 unix:// redis+geh3im://h redis://[geh3im
    """.split(),
)
def test_a_malformed_redis_url_is_refused_without_being_shown(url: str) -> None:
    """The error about a malformed Redis URL names the variable and quotes nothing of the value."""
    with pytest.raises(
        ConfigurationError, match=r"^MIGRATION_REDIS_URL is not the URL of a Redis\. To fix: "
    ) as refused:
        MigrationSettings.load(redis_url=url)
    assert "geh3" not in "".join(traceback.format_exception(refused.value))


def test_the_history_table_is_named_after_the_version_table() -> None:
    """The default name of the history table is that of the version table with `_history`."""
    assert MigrationSettings.load(version_table="v").history == "v_history"
    assert MigrationSettings.load(history_table="h").history == "h"


def test_the_names_of_instance_and_release_can_be_shown_and_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters and invalid bytes in the names of instance and release are replaced, and long ones are cut."""
    monkeypatch.setenv("MIGRATION_INSTANCE", os.fsdecode("Имя 😀\x1b[2J".encode() + b"\xff"))
    monkeypatch.setenv("MIGRATION_RELEASE", "v" * 300)
    settings = MigrationSettings.load()
    assert settings.instance == "Имя 😀?[2J?"
    assert settings.release == "v" * 255
