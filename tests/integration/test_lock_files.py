"""The lock file beside a SQLite database: its owner and mode, which users can lock it, and files that cannot be one."""

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
    """Yield a database in a folder that every user can write to, such as a shared volume."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        path = folder / "shop.db"
        path.touch()
        path.chmod(0o640)
        yield path


def file_lock(database: Path) -> FileLock:
    """Return the lock beside the database."""
    return FileLock(database.with_suffix(".lock"), database, LockRetrySchedule(lambda _: Limits()), 5.0, "one")


def lockable(database: Path) -> bool:
    """Return whether the current user can lock the file now."""
    file = open_lock(database.with_suffix(".lock"), database)
    try:
        return locked(file, fcntl.LOCK_EX)
    finally:
        os.close(file)


def owner(path: Path) -> tuple[int, int]:
    """Return user and group of a file."""
    there = path.stat()
    return there.st_uid, there.st_gid


def open_descriptors() -> set[str]:
    """Return the open descriptors of this process."""
    return {file.name for file in Path("/proc/self/fd").iterdir() if file.is_symlink()}


async def test_root_creates_the_lock_file_for_the_database_s_owner(database: Path) -> None:
    """Root creates the lock file: it belongs to the database's owner, who can lock it after root."""
    Account.unprivileged().own(database)
    lock = file_lock(database)
    assert await lock.try_lock()
    with nobody():
        assert not lockable(database)
    await lock.unlock()
    with nobody():
        assert lockable(database)
    assert owner(database.with_suffix(".lock")) == owner(database)


def test_the_lock_file_has_the_mode_of_the_database(database: Path) -> None:
    """The lock file gets the mode of the database, whatever the umask is."""
    before = os.umask(0o077)
    try:
        os.close(open_lock(database.with_suffix(".lock"), database))
    finally:
        os.umask(before)
    assert stat.S_IMODE(database.with_suffix(".lock").stat().st_mode) == 0o640


def test_a_user_who_may_only_read_the_lock_file_can_lock_it(database: Path) -> None:
    """A user may only read the lock file: that user can still lock it."""
    database.with_suffix(".lock").touch(0o444)
    with nobody():
        assert lockable(database)


def test_an_unreadable_lock_file_is_refused_with_the_remedy(database: Path) -> None:
    """A user may not read the lock file: the error says to give it the database's owner and mode."""
    database.with_suffix(".lock").touch(0o000)
    with nobody(), pytest.raises(PrivilegeMissing, match=r"give it the owner and the mode of shop\.db"):
        lockable(database)


async def test_a_released_lock_file_names_no_holder(database: Path) -> None:
    """A holder releases the lock and another process locks the file without a name: the holder is `unknown`."""
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
    """`flock` fails: the attempt closes the file, and a file system without locks is a wrong setting."""

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
def test_a_path_that_is_no_lock_file_is_refused(database: Path, put: Callable[[Path], object]) -> None:
    """Another file, a folder, a pipe or a link has the lock file's name: it is refused at once and not changed."""
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
async def test_a_lock_file_of_an_earlier_holder_is_reused(database: Path, content: bytes) -> None:
    """An earlier holder left the lock file, perhaps half written: the next one acquires the lock."""
    database.with_suffix(".lock").write_bytes(content)
    lock = file_lock(database)
    assert await lock.try_lock()
    await lock.unlock()
