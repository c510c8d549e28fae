"""The lock file beside a SQLite database: its path, its owner, and the errors of locking it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from ...core.lock_key import LockKey
from ...errors import ConfigurationError, PrivilegeMissing

_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


def lock_file(database: Path, key: LockKey) -> Path:
    """Return the path of the lock file, beside the database's real file if `database` is a link."""
    real = database.resolve()
    return real.with_name(f"{real.name}-{key.channel}.lock")


def open_lock(path: Path, database: Path) -> int:
    """Open the lock file, created if missing; read-only if its mode allows no more, which is enough to lock it.

    Raises `PrivilegeMissing`, or `ConfigurationError` if its name is too long or another file has that name.
    """
    try:
        return _create(path, database)
    except FileExistsError:
        _refuse_other(path)
        return _open(path, database)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise _too_long(path, database) from error
        if not isinstance(error, PermissionError):
            raise
        raise PrivilegeMissing(
            f"the lock file {path.name} cannot be created beside the database: {error.strerror}. To fix: let this "
            "process write the database's folder"
        ) from error


def _refuse_other(path: Path) -> None:
    # each holder overwrites it
    why = _why_other(path)
    if why is not None:
        raise ConfigurationError(
            f"{path} cannot be the lock file: it {why}. It was not changed. To fix: rename or move it; a lock file is "
            "then created"
        )


def _why_other(path: Path) -> str | None:
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        return "is a symbolic link" if stat.S_ISLNK(mode) else "is not a regular file"
    with suppress(PermissionError), path.open("rb") as file:
        text = file.read(64)
        # a power failure may leave zeros
        if text.strip(b"\0") and not text.startswith((b"{}", b'{"instance":')):
            return "has content that no lock holder wrote"
    return None


def _too_long(path: Path, database: Path) -> ConfigurationError:
    more = len(os.fsencode(path.name)) - len(os.fsencode(database.resolve().name))
    most = os.pathconf(path.parent, "PC_NAME_MAX") - more
    return ConfigurationError(
        f"the SQLite file's name is too long: that of the lock file is {more} bytes longer than the file system "
        f"allows. To fix: rename the SQLite file to at most {most} bytes, and set DATABASE_URL to that"
    )


def _create(path: Path, database: Path) -> int:
    # with the database's owner and mode, as SQLite's own files: the service could not open a file of root
    owner = database.stat()
    mode = owner.st_mode & 0o666
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with suppress(OSError):
        os.fchmod(file, mode)
    with suppress(OSError):
        os.fchown(file, owner.st_uid if os.geteuid() == 0 else -1, owner.st_gid)
    return file


def _open(path: Path, database: Path) -> int:
    with suppress(PermissionError):
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise PrivilegeMissing(
            f"the lock file {path.name} cannot be opened: {error.strerror}. To fix: give it the owner and the mode of "
            f"{database.name} (chown --reference, chmod --reference)"
        ) from error


def locked(file: int, how: int) -> bool:
    """Lock `file` without waiting; return whether that succeeded.

    Raises `ConfigurationError` if the file system has no locks.
    """
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise ConfigurationError(
            f"the file system of the SQLite file has no locks ({os.strerror(error.errno)}). To fix: use a local disk"
        ) from error
    return True
