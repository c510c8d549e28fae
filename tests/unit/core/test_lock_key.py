"""The lock key is the same in every process and differs between services; session names fit into 63 bytes."""

import os
import subprocess
import sys

import pytest

from api.migrations.core.lock_key import LockKey
from api.migrations.databases.registry import backend_of
from api.migrations.lock_manager import application_name, instance_of
from api.migrations.settings import MigrationSettings
from api.migrations.urls.database_url import DatabaseURL

NAMES = 200_000
"""So many names that a key of 32 bits would be shared with a probability of 99 %."""
DEFAULT = LockKey.derive("fastapi", "alembic_version", None)
SECOND = 7787797150140281912
LONGEST = 64
"""The maximum number of characters in the name of a MySQL database and of a lock of GET_LOCK."""


def test_the_lock_key_never_changes() -> None:
    """The lock key has a fixed value, because releases with different keys would migrate at the same time."""
    assert DEFAULT.value == 1143550121658717078
    assert str(DEFAULT) == "0x0fdeb4c6e0529396 (classid 266253510, objid 3763508118)"
    assert DEFAULT.channel == "migrations_0fdeb4c6e0529396"


@pytest.mark.parametrize("seed", ["0", "4242"])
def test_every_process_derives_the_same_key(seed: str) -> None:
    """Processes with different hash seeds derive the same lock key."""
    key = "LockKey.derive('fastapi', 'alembic_version', None)"
    program = f"from api.migrations.core.lock_key import LockKey; print({key}.value)"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == DEFAULT.value


def test_no_two_names_share_a_key() -> None:
    """200,000 lock names have as many different keys."""
    assert len({LockKey.derive(f"service-{number}", "alembic_version", None) for number in range(NAMES)}) == NAMES


def test_the_key_depends_on_name_table_and_schema() -> None:
    """Lock name, version table and schema each change the key, so that unrelated services do not share a lock."""
    parts = [("a", "v", None), ("b", "v", None), ("a", "w", None), ("a", "v", "s"), ("a", "s", "v"), ("av", "v", None)]
    assert len({LockKey.derive(*part) for part in parts}) == len(parts)


def test_every_key_fits_a_signed_bigint() -> None:
    """Every key fits PostgreSQL's signed bigint, and its two halves in pg_locks make up the same number."""
    keys = [LockKey.derive(f"service-{number}", "v", None) for number in range(100)]
    assert {key.value < 0 for key in keys} == {True, False}
    for key in keys:
        assert -(2**63) <= key.value < 2**63
        assert 0 <= key.high < 2**32
        assert 0 <= key.low < 2**32
        assert (key.high << 32 | key.low) == key.value % 2**64


def test_the_notification_channel_needs_no_quoting() -> None:
    """The name of the notification channel is a plain SQL identifier."""
    assert DEFAULT.channel.isidentifier()
    assert DEFAULT.channel == DEFAULT.channel.lower()
    assert len(DEFAULT.channel) <= 63


def mysql_name(database: str, **settings: str) -> str:
    """Return the name that GET_LOCK gets for a database of that name."""
    url = DatabaseURL.parse(f"mysql://shop:secret@db.example/{database}")
    return backend_of(MigrationSettings.load(_env_file=None, **settings), url).lock_name


@pytest.mark.parametrize("database", ["s", "s" * LONGEST, "%C3%BC" * LONGEST], ids=["short", "long", "longer in bytes"])
@pytest.mark.parametrize("name", ["fastapi", "n" * 200], ids=["short", "long"])
def test_the_mysql_lock_name_fits_get_lock(database: str, name: str) -> None:
    """The lock name is at most 64 bytes long, however long the names of database and lock are."""
    assert len(mysql_name(database, lock_name=name).encode()) <= LONGEST


def test_long_database_names_with_a_common_prefix_do_not_share_a_lock() -> None:
    """Two databases on one MySQL server whose long names differ only at the end have different lock names."""
    beginning = "s" * (LONGEST - 1)
    databases = [beginning + end for end in "abcdefghij"]
    assert len({mysql_name(database) for database in databases}) == len(databases)
    assert mysql_name(beginning + "a") == mysql_name(beginning + "A"), "a server may take them for one"


@pytest.mark.parametrize("instance", ["web-1", "host.example-4242", "a:b:c", "ünïcode", "with blank", "%s"])
def test_the_instance_is_parsed_from_a_session_s_name(instance: str) -> None:
    """A waiter reads the instance's name out of the application name of a session."""
    assert instance_of(application_name(DEFAULT, "migrating", instance)) == instance


@pytest.mark.parametrize("instance", ["x" * 200, "ü" * 100, "x" + "ü" * 100, "😀" * 50])
def test_a_long_name_is_cut_between_characters(instance: str) -> None:
    """A long instance name is cut to 63 bytes between two characters, and not inside one."""
    name = application_name(DEFAULT, "migrating", instance)
    assert 60 <= len(name.encode()) <= 63
    assert name.startswith(DEFAULT.label)
    assert instance.startswith(instance_of(name))


@pytest.mark.parametrize(
    ("name", "instance"),
    [(None, "unknown"), ("", "unknown"), ("psql", "psql"), ("migrations:x", "migrations:x"), ("a:b:c:d", "a:b:c:d")],
)
def test_a_foreign_session_keeps_its_own_name(name: str | None, instance: str) -> None:
    """A session of another program, such as psql, is shown by its own application name."""
    assert instance_of(name) == instance


def test_the_second_key_differs_and_never_changes() -> None:
    """The second lock's key is derived from the first, differs from it, and is the same in every release."""
    assert DEFAULT.second.value == SECOND
    assert DEFAULT.halves == (DEFAULT.high, DEFAULT.low, DEFAULT.second.high, DEFAULT.second.low)
