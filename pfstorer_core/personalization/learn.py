"""Adapters that are learned once: what is finished is found again, what was stopped goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

from torch import Tensor

from ..imaging.faces import Box
from ..models.graphs import Capture
from ..restorers.base import Restorer
from ..training.lock import TakenError, locked
from ..training.progress import OnTick, Progress, never, silent
from .base import Adapter, AdapterT
from .face import PersonFace
from .folder import UNFINISHED, adapters_like, clean, find_path, found_as, saved_as, write_face
from .objective import PersonTraining, Start
from .photos import as_they_lie, face_crops
from .previews import preview_path, read_preview, with_crops, write_preview
from .training import check_steps, run_key, train_identity_adapter

FACE_KNOWN = "The file holds an embedding of the face: Choose Identity finds the person in pictures by it."
NO_FACE = (
    "No face was found in the photos, so that the file holds no embedding of it, and Choose Identity cannot "
    "find the person in pictures by it."
)


@dataclass(frozen=True, eq=False)
class Learned(Generic[AdapterT]):
    """A person, learned or found.

    Attributes:
        sheet: the crops that were learned from, and the last preview [1, 3, H, W] in [0, 1].
        file: where the adapter lies.
        notes: what was done, a sentence each.
        before: whether it was learned before and only found.
    """

    adapter: AdapterT
    sheet: Tensor
    file: Path
    notes: list[str]
    before: bool = False


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
    aligned: int = 0,
    embed_face: Callable[[Sequence[Tensor]], PersonFace | None] | None = None,
    start: Start | None = None,
    graphs: bool | Capture = False,
) -> Learned[AdapterT]:
    """`train_identity_adapter` into a file, unless an adapter of this run key lies there already.

    An adapter of fewer steps, but else of the same photos and settings, is gone on from.

    Args:
        load: gives the restorer, with its text tower; only asked where there is something to learn.
        base: its fingerprint.
        file: where to; where another person's adapter has that name, a number is added to it.
        restart: forget what was stopped or finished before.
        on_tick: see `train_identity_adapter`.
        aligned: how the restorer that `load` gives knows faces, see `aligned_side`.
        embed_face: makes the face by which the person is found later of the squares that are learned from,
            see `face_of`; an adapter that was learned before without one gets it. None: it has none.
        start, graphs: see `train_identity_adapter`.
    Raises:
        ValueError: see `train_identity_adapter`; what is wrong with the photos before `load` is called; or
            the same is being learned already.
    """
    check_steps(settings, start)
    seen = face_crops(photos, boxes, aligned, on_tick)
    key = run_key(base, photos, settings, boxes, start)
    path, done = find_path(file, key)
    unfinished = file.parent / UNFINISHED / key
    clean(file, keep=key if done is None else "")
    known = done is not None and not restart and done.header.face is not None
    face = None if embed_face is None or known else embed_face([crop for crop, _ in seen])
    told = [] if known or embed_face is None else [FACE_KNOWN if face else NO_FACE]
    if done is not None and not restart:
        if face is not None:
            write_face(path, face)
            done = done.with_face(face)
        sheet = read_preview(preview_path(path), key)
        sheet = with_crops(seen, None) if sheet is None else sheet
        found: Any = done  # of this method, as its key says
        notes = [found_as(path), *told]
        return Learned(found, sheet, path, notes, before=True)
    shown: list[Tensor] = []

    def listen(progress: Progress) -> None:
        if progress.picture is not None:
            shown[:] = [progress.picture]
            progress = replace(progress, picture=with_crops(seen, progress.picture))
        on_progress(progress)

    try:
        with locked(unfinished.with_suffix(".lock")):
            if restart:
                shutil.rmtree(unfinished, ignore_errors=True)
            begun: Any = None if restart else _shorter(file, base, photos, settings, boxes, start)
            adapter = train_identity_adapter(
                load(), photos, settings, boxes=boxes, folder=unfinished, on_progress=listen, key=key,
                on_tick=on_tick, begun=begun, shared=file.parent / UNFINISHED, start=start,
                graphs=graphs,
            )  # fmt: skip
            adapter = adapter.with_face(face)
            path, _ = find_path(file, key)  # another may have been saved meanwhile
            adapter.save(path)
            sheet = with_crops(seen, shown[0] if shown else None)
            kept = write_preview(sheet, preview_path(path), key)
            shutil.rmtree(unfinished, ignore_errors=True)
    except TakenError as error:
        raise ValueError(
            "This person is being learned already, from the same photos by the same settings, in another "
            "process: wait until it is done, and queue again to find the result."
        ) from error
    notes = [saved_as(path, file), *as_they_lie(seen, boxes), *told]
    if begun is not None:
        notes.append(f"It went on from the {begun.header.steps} steps of the adapter that was there.")
    if not kept:
        notes.append(f"{preview_path(path).name} is a picture of yours and was left as it is.")
    return Learned(adapter, sheet, path, notes)


def _shorter(
    file: Path,
    base: str,
    photos: Sequence[Tensor],
    settings: PersonTraining,
    boxes: Sequence[Box | None] | None,
    start: Start | None,
) -> Adapter | None:
    """The longest of the adapters of that name that the same training has come to in fewer steps."""
    found = [
        adapter for _, adapter in adapters_like(file) if adapter and 0 < adapter.header.steps < settings.steps
    ]
    for adapter in sorted(found, key=lambda adapter: -adapter.header.steps):
        steps = adapter.header.steps
        if adapter.header.run_key == run_key(base, photos, replace(settings, steps=steps), boxes, start):
            return adapter
    return None
