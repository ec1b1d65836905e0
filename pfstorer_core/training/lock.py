"""One training at a time of what is the same."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class TakenError(Exception):
    """Somebody else holds the lock."""

    __module__ = "builtins"  # see layouts.CheckpointError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock, by a file that is gone afterwards. The system lets go of it where a process dies, so that
    no lock outlives its holder; where a file system knows no locks, nothing is held.

    Raises:
        TakenError: another process holds it, or this one already.
        OSError: the file cannot be made.
    """
    handle = _taken(path)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no file that is open
            path.unlink()
        os.close(handle)
        if sys.platform == "win32":
            with suppress(OSError):
                path.unlink()


def _taken(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:  # somebody has just removed the folder, which was empty
            continue
        try:
            _lock(handle)
            if os.path.exists(path) and os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except OSError as error:
            os.close(handle)
            if error.errno in TAKEN:
                raise TakenError(str(path)) from error
            raise
        os.close(handle)  # whoever held it has removed that file


def _lock(handle: int) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            raise
