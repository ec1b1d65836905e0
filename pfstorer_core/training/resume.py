"""Adapters that are learned once: what is finished is found again, what was stopped goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import IdentityAdapter, load_identity_adapter
from ..layouts import CheckpointError
from ..pictures import read_picture, write_picture
from ..progress import Progress, silent
from ..restorer import Restorer
from .identity import AdapterTraining, run_key, train_identity_adapter
from .photos import Box, squares

UNFINISHED = ".unfinished"
"""Folder beside the adapters; a training in it is named by its run key."""


def learn(
    load: Callable[[], Restorer],
    base: str,
    photos: Sequence[Tensor],
    settings: AdapterTraining,
    boxes: Sequence[Box | None] | None,
    file: Path,
    restart: bool = False,
    on_progress: Callable[[Progress], None] = silent,
) -> tuple[IdentityAdapter, Tensor]:
    """`train_identity_adapter` into a file, unless an adapter of this run key lies there already.

    Args:
        load: gives the restorer, with its text tower; only asked where there is something to learn.
        base: its fingerprint.
        file: where to; where another person's adapter has that name, a number is added to it.
        restart: forget what was stopped or finished before.
    Returns:
        The adapter, and the last preview [1, 3, H, W] in [0, 1].
    Raises:
        ValueError: see `train_identity_adapter`; what is wrong with the photos before `load` is called.
    """
    squares(photos, boxes)
    key = run_key(base, photos, settings, boxes)
    unfinished = file.parent / UNFINISHED / key
    if restart:
        shutil.rmtree(unfinished, ignore_errors=True)
    target, done = place(file, key)
    preview = target.with_suffix(".png")
    if done is not None and not restart:
        return done, read_picture(preview) if preview.exists() else torch.zeros(1, 3, 8, 8)
    shown = [torch.zeros(1, 3, 8, 8)]

    def listen(progress: Progress) -> None:
        if progress.picture is not None:
            shown[0] = progress.picture.float().cpu()
        on_progress(progress)

    adapter = train_identity_adapter(
        load(), photos, settings, boxes=boxes, folder=unfinished, on_progress=listen, key=key
    )
    adapter.save(target)
    write_picture(shown[0], preview)
    shutil.rmtree(unfinished, ignore_errors=True)
    return adapter, shown[0]


def place(file: Path, key: str) -> tuple[Path, IdentityAdapter | None]:
    """The first free name like that of `file`, or the file that has this run key, and what is in it."""
    number, path = 1, file
    while path.exists():
        try:
            found = load_identity_adapter(path)
        except CheckpointError:
            found = None  # somebody else's file
        if found is not None and found.header.run_key == key:
            return path, found
        number += 1
        path = file.with_stem(f"{file.stem}_{number}")
    return path, None


def saved_as(path: Path, wanted: Path) -> str:
    """Where an adapter lies, in a sentence."""
    taken = "" if path == wanted else f", since {wanted.name} is another person or another training"
    return f"Saved as {path.name} in {path.parent}{taken}."
