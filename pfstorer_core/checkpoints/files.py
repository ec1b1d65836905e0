"""Writing files so that nothing is ever half written."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .words import plain

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PREFIX, SUFFIX = ".pfstorer.", ".part"
"""Of temporary names: short whatever the file is called, since file systems count bytes."""

STALE = 600.0
"""Seconds after which a writer counts as dead where there are no such locks."""


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    What writers that died have left there is removed first. A live one holds a lock on its file, which the
    system takes from the dead, also where another process got their number.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    descriptor, name = tempfile.mkstemp(SUFFIX, PREFIX, path.parent)
    temporary = Path(name)
    try:
        if fcntl is None:
            os.close(descriptor)
        else:
            _lock(descriptor)
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # some writers make files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        if fcntl is not None:
            os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files beside `path` whose writers died."""
    ours = re.compile(
        rf"{re.escape(PREFIX)}\w+{re.escape(SUFFIX)}|\.{re.escape(path.name)}\.\d+{re.escape(SUFFIX)}"
    )
    with suppress(OSError):  # whatever is wrong with the folder, writing will say
        for left in [entry.path for entry in os.scandir(path.parent) if ours.fullmatch(entry.name)]:
            if not _is_being_written(left):
                with suppress(OSError):
                    os.unlink(left)


def _is_being_written(path: str) -> bool:
    if fcntl is None:
        return time.time() - os.stat(path).st_mtime < STALE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return True
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    assert fcntl is not None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def check_output(path: Path | str) -> None:
    """Raise OSError, before any work, where no file can be written to `path`: it is a folder, its name is too
    long, or its folder cannot be made or written to."""
    path = Path(path)
    shown = plain(path, 200)
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise OSError(f"{shown} cannot be written: {error.strerror}.") from error
    if path.is_dir():
        raise IsADirectoryError(f"{shown} is a folder: name the file to write.")
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{shown} cannot be written: {plain(folder, 200)} is no folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{shown} cannot be written: no permission to write into {plain(folder, 200)}.")
