"""Adapters that are learned once: what is finished is found again, what was stopped goes on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

from torch import Tensor

from ..checkpoints.errors import CheckpointError
from ..checkpoints.files import remove_leftovers
from ..checkpoints.names import numbered
from ..checkpoints.reading import read_metadata
from ..imaging.faces import Box
from ..restorers.base import Restorer
from ..training.lock import TakenError, locked
from ..training.progress import OnTick, Progress, never, silent
from .base import Adapter, AdapterT
from .header import HEADER_ENTRY
from .photos import squares
from .previews import preview_path, read_preview, with_crops, write_preview
from .registry import load_identity_adapter
from .training import STAGE, PersonTraining, run_key, train_identity_adapter

UNFINISHED = ".unfinished"
"""Folder beside the adapters; a training in it is named by its run key."""
RUN_KEY = re.compile("[0-9a-f]{8,64}")
"""What names the trainings in it: all else there is somebody else's."""


@dataclass(frozen=True, eq=False)
class Learned(Generic[AdapterT]):
    """A person, learned or found.

    Attributes:
        sheet: the crops that were learned from, and the last preview [1, 3, H, W] in [0, 1].
        file: where the adapter lies.
        notes: what was done, a sentence each.
    """

    adapter: AdapterT
    sheet: Tensor
    file: Path
    notes: list[str]


def learn(
    load: Callable[[], Restorer],
    base: str,
    photos: Sequence[Tensor],
    settings: PersonTraining[AdapterT],
    boxes: Sequence[Box | None] | None,
    file: Path,
    restart: bool = False,
    on_progress: Callable[[Progress], None] = silent,
    on_tick: OnTick = never,
) -> Learned[AdapterT]:
    """`train_identity_adapter` into a file, unless an adapter of this run key lies there already.

    An adapter of fewer steps, but else of the same photos and settings, is gone on from.

    Args:
        load: gives the restorer, with its text tower; only asked where there is something to learn.
        base: its fingerprint.
        file: where to; where another person's adapter has that name, a number is added to it.
        restart: forget what was stopped or finished before.
        on_tick: see `train_identity_adapter`.
    Raises:
        ValueError: see `train_identity_adapter`; what is wrong with the photos before `load` is called; or
            the same is being learned already.
    """
    crops = squares(photos, boxes)
    key = run_key(base, photos, settings, boxes)
    path, done = place(file, key)
    unfinished = file.parent / UNFINISHED / key
    clean(file, keep=key if done is None else "")
    if done is not None and not restart:
        sheet = read_preview(preview_path(path), key)
        sheet = with_crops(crops, boxes, None) if sheet is None else sheet
        found: Any = done  # of this method, as its key says
        return Learned(found, sheet, path, [f"Learned before: found as {path.name} in {path.parent}."])
    shown: list[Tensor] = []

    def listen(progress: Progress) -> None:
        if progress.picture is not None:
            shown[:] = [progress.picture]
            progress = replace(progress, picture=with_crops(crops, boxes, progress.picture))
        on_progress(progress)

    try:
        with locked(unfinished.with_suffix(".lock")):
            if restart:
                shutil.rmtree(unfinished, ignore_errors=True)
            begun: Any = None if restart else _shorter(file, base, photos, settings, boxes)
            adapter = train_identity_adapter(
                load(), photos, settings, boxes=boxes, folder=unfinished, on_progress=listen, key=key,
                on_tick=on_tick, begun=begun,
            )  # fmt: skip
            path, _ = place(file, key)  # another may have been saved meanwhile
            adapter.save(path)
            sheet = with_crops(crops, boxes, shown[0] if shown else None)
            kept = write_preview(sheet, preview_path(path), key)
            shutil.rmtree(unfinished, ignore_errors=True)
    except TakenError as error:
        raise ValueError(
            "This person is being learned already, from the same photos by the same settings, in another "
            "process: wait until it is done, and queue again to find the result."
        ) from error
    notes = [saved_as(path, file)]
    if begun is not None:
        notes.append(f"It went on from the {begun.header.steps} steps of the adapter that was there.")
    if not kept:
        notes.append(f"{preview_path(path).name} is a picture of yours and was left as it is.")
    return Learned(adapter, sheet, path, notes)


def place(file: Path, key: str) -> tuple[Path, Adapter | None]:
    """The first free name like that of `file`, or the file that has this run key, and what is in it. What was
    made elsewhere has no key, and is never taken for another."""
    for path, found in _like(file):
        if found is not None and key and found.header.run_key == key:
            return path, found
    return next(path for path in _names(file) if not path.exists()), None


def saved_as(path: Path, wanted: Path) -> str:
    """Where an adapter lies, in a sentence."""
    taken = "" if path == wanted else f", since {wanted.name} is another person or another training"
    return f"Saved as {path.name} in {path.parent}{taken}."


def _names(file: Path) -> Iterator[Path]:
    number = 0
    while True:
        yield numbered(file, number := number + 1)


def _like(file: Path) -> Iterator[tuple[Path, Adapter | None]]:
    """The files that have the name, a number added to it or not; None for what is no adapter."""
    for path in _names(file):
        if not path.exists():
            return
        try:
            yield path, load_identity_adapter(path)
        except CheckpointError:
            yield path, None  # somebody else's file


def _shorter(
    file: Path,
    base: str,
    photos: Sequence[Tensor],
    settings: PersonTraining,
    boxes: Sequence[Box | None] | None,
) -> Adapter | None:
    """The longest of the adapters of that name that the same training has come to in fewer steps."""
    found = [adapter for _, adapter in _like(file) if adapter and 0 < adapter.header.steps < settings.steps]
    for adapter in sorted(found, key=lambda adapter: -adapter.header.steps):
        steps = adapter.header.steps
        if adapter.header.run_key == run_key(base, photos, replace(settings, steps=steps), boxes):
            return adapter
    return None


def clean(file: Path, keep: str = "") -> None:
    """Remove what processes that died have left beside an adapter: it is as biometric as these are. What a
    training can still go on from stays, and so does whatever is none of ours.

    Args:
        keep: run key of a training that is to go on, though an adapter of it lies there by another name.
    """
    remove_leftovers(file)
    finished = {_run_key_of(path) for path in file.parent.glob("*.safetensors")} - {keep}
    ours = [path for path in (file.parent / UNFINISHED).glob("*") if RUN_KEY.fullmatch(path.stem)]
    for lock in (path for path in ours if path.suffix == ".lock"):
        with suppress(TakenError, OSError), locked(lock):
            pass
    for run in (path for path in ours if not path.suffix and path.is_dir()):
        state = run / f"{STAGE}.state.safetensors"
        with suppress(TakenError, OSError), locked(run.with_suffix(".lock")):
            remove_leftovers(state)
            for pictures in ("sheets", "tensorboard"):
                shutil.rmtree(run / pictures, ignore_errors=True)
            if run.name in finished or not state.exists():
                shutil.rmtree(run, ignore_errors=True)
    with suppress(OSError):
        (file.parent / UNFINISHED).rmdir()  # only where nothing is in it


def _run_key_of(path: Path) -> str:
    """Of an adapter, by its header alone; "" for any other file."""
    try:
        return str(json.loads(read_metadata(path)[HEADER_ENTRY])["run_key"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
