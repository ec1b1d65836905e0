"""Work on many things that several processes share: what fails stops no other, and one is told of all."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ..checkpoints.words import plain
from .journal import LOCK, ended
from .lock import TakenError, locked
from .processes import Processes
from .progress import Progress

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Of a disk to which nothing more can be written."""
LOOK = 0.5
"""Seconds between two looks at how far the others are."""


@dataclass
class Summary:
    """What became of many things.

    Attributes:
        done, skipped: names of what was done now, and of what was done before.
        failed: why others were not, by their names.
        notes: what else is to be said, a sentence each.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def told(self, verb: str, output: Path) -> str:
        """In lines, for people: counts, why something failed, and notes."""
        counts = f"{len(self.done)} {verb}, {len(self.skipped)} finished before, {len(self.failed)} failed"
        failed = [f"failed: {plain(name, 200)}: {why}" for name, why in sorted(self.failed.items())]
        return "\n".join([*failed, *self.notes, f"{plain(output, 200)}: {counts}."]) + "\n"

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            self.done + other.done,
            self.skipped + other.skipped,
            self.failed | other.failed,
            self.notes + other.notes,
        )


def shares(things: Sequence[T], processes: Processes) -> Sequence[T]:
    """Those of this process: dealt out like cards, so that neighbours, which take as long, go to different
    ones."""
    return things[processes.index :: processes.count]


@contextmanager
def noted(name: str, failed: dict[str, str]) -> Iterator[None]:
    """What goes wrong within is noted as why that failed; but for what the next ones would fail of, too: a
    disk that is full, a GPU that is lost."""
    try:
        yield
    except Exception as error:  # what a damaged picture leads to has no limits
        if (isinstance(error, OSError) and error.errno in FULL) or "CUDA error" in str(error):
            raise
        failed[name] = plain(str(error) or type(error).__name__, 500)


@contextmanager
def only_one_run(folder: Path, processes: Processes) -> Iterator[None]:
    """Within it no other run writes into that folder. Raises ValueError where one does."""
    if not processes.is_main:
        yield
        return
    try:
        with locked(folder / LOCK):
            yield
    except TakenError as error:
        raise ValueError(
            f"Another run is writing into {plain(folder, 200)}: wait until it is done. (By several processes "
            "that are to share the work it is run by one `accelerate launch`.)"
        ) from error


@contextmanager
def told_of_all(
    folder: Path, stage: str, total: int, processes: Processes, on_progress: Callable[[Progress], None]
) -> Iterator[None]:
    """Within it the main process's caller hears from a thread how many of all things are done with, by the
    journals of all processes in that folder."""
    if not processes.is_main:
        yield
        return
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK):
            on_progress(Progress(stage, ended(folder), total))

    on_progress(Progress(stage, 0, total))
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
        on_progress(Progress(stage, total, total))
    finally:
        stop.set()
        thread.join()
