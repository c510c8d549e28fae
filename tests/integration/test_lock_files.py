"""The lock file beside a SQLite database: whose it is, who may lock it, and what becomes of one that cannot be."""

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from api.migrations.databases.sqlite.lock_file import locked, open_lock
from api.migrations.databases.sqlite.platform import FileLock
from api.migrations.errors import ConfigurationError, PrivilegeMissing
from api.migrations.execution.limits import Limits
from api.migrations.execution.lock_retry import LockRetrySchedule
from devtools.account import Account
from tests.support.places import nobody


@pytest.fixture
def database() -> Iterator[Path]:
    """A database in a folder that is open to everybody, as a volume that an image's user shares with root."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        path = folder / "shop.db"
        path.touch()
        path.chmod(0o640)
        yield path


def file_lock(database: Path) -> FileLock:
    """The lock beside it."""
    return FileLock(database.with_suffix(".lock"), database, LockRetrySchedule(lambda _: Limits()), "one")


def lockable(database: Path) -> bool:
    """Whether who asks could lock it now."""
    file = open_lock(database.with_suffix(".lock"), database)
    try:
        return locked(file, fcntl.LOCK_EX)
    finally:
        os.close(file)


def owner(path: Path) -> tuple[int, int]:
    """User and group."""
    there = path.stat()
    return there.st_uid, there.st_gid


def open_descriptors() -> set[str]:
    """Of this process."""
    return {file.name for file in Path("/proc/self/fd").iterdir() if file.is_symlink()}


async def test_root_makes_it_for_whom_the_database_belongs_to(database: Path) -> None:
    """So a command that root gives does not lock the service out."""
    Account.unprivileged().own(database)
    lock = file_lock(database)
    assert await lock.try_lock()
    with nobody():
        assert not lockable(database)
    await lock.unlock()
    with nobody():
        assert lockable(database)
    assert owner(database.with_suffix(".lock")) == owner(database)


def test_it_has_the_mode_of_the_database(database: Path) -> None:
    """Whatever the umask is."""
    before = os.umask(0o077)
    try:
        os.close(open_lock(database.with_suffix(".lock"), database))
    finally:
        os.umask(before)
    assert stat.S_IMODE(database.with_suffix(".lock").stat().st_mode) == 0o640


def test_who_may_only_read_it_can_lock_it(database: Path) -> None:
    """As one that root made before it gave them away."""
    database.with_suffix(".lock").touch(0o444)
    with nobody():
        assert lockable(database)


def test_who_may_not_read_it_is_told_what_to_do(database: Path) -> None:
    """Not that the folder cannot be written, which it can."""
    database.with_suffix(".lock").touch(0o000)
    with nobody(), pytest.raises(PrivilegeMissing, match=r"give it the owner and the mode of shop\.db"):
        lockable(database)


async def test_nobody_is_named_who_has_given_it_back(database: Path) -> None:
    """The next holder may not be able to write down a name of its own."""
    lock = file_lock(database)
    assert await lock.try_lock()
    await lock.unlock()
    with database.with_suffix(".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        holder = await lock.holder()
    assert holder is not None
    assert holder.instance == "unknown"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
async def test_a_file_that_cannot_be_locked_is_closed(
    database: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """However often it is tried; and a file system without locks is no trouble that passes."""

    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    before = open_descriptors()
    with pytest.raises(OSError if number == errno.EIO else ConfigurationError) as raised:
        await file_lock(database).try_lock()
    assert len(open_descriptors()) == len(before)
    if number != errno.EIO:
        assert "the file system of the SQLite file has no locks" in str(raised.value)


OTHERS: dict[str, Callable[[Path], object]] = {
    "another file": lambda path: path.write_text("keep me"),
    "other JSON": lambda path: path.write_text('{"name": "keep me"}'),
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link": lambda path: path.symlink_to(path.with_name("shop.db")),
    "a link to nowhere": lambda path: path.symlink_to(path.with_name("gone")),
}


@pytest.mark.parametrize("put", OTHERS.values(), ids=OTHERS)
def test_what_is_no_lock_file_is_refused(database: Path, put: Callable[[Path], object]) -> None:
    """At once, with its path and what to do; it is neither emptied nor written, and nothing waits for it."""
    database.write_text("a database")
    path = database.with_suffix(".lock")
    put(path)
    before = path.lstat()
    with pytest.raises(ConfigurationError, match=r"shop\.lock cannot be the lock file: .*To fix: "):
        asyncio.run(file_lock(database).try_lock())
    assert asyncio.run(file_lock(database).holder()) is None
    assert database.read_text() == "a database"
    after = path.lstat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\0\0\0", b'{"instance": "one", "pid": 1, "since": 1.5}', b'{"instance": "o']
)
async def test_what_a_holder_left_is_taken_over(database: Path, content: bytes) -> None:
    """Also where its host went down in the middle of a word."""
    database.with_suffix(".lock").write_bytes(content)
    lock = file_lock(database)
    assert await lock.try_lock()
    await lock.unlock()
