"""Drawn pictures and their captions as files, to train on."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.training.progress import Progress, silent

from .captions import SCENES, caption
from .leaves import dead_leaves
from .person import draw_person
from .photo import photograph
from .shot import draw_shot

SETTINGS = "drawn.json"
"""Tells what a folder's pictures are, so that no others come between them."""


@dataclass(frozen=True)
class DrawnPictures:
    """Which pictures to draw: photos of drawn people, and dead leaves for everything else.

    Attributes:
        people: number of persons; person k comes from seed (seed, k), so that people can be told
            apart from those of a test by their seeds alone.
        photos: photos of each person.
        leaves: pictures without a face.
        size: side of the pictures in pixels.
    """

    people: int = 2000
    photos: int = 2
    leaves: int = 800
    size: int = 128
    seed: int = 1

    def __len__(self) -> int:
        return self.people * self.photos + self.leaves

    def check(self) -> None:
        """Raise ValueError where there is nothing to draw."""
        for name, least in {"people": 0, "photos": 0, "leaves": 0, "size": 1, "seed": 0}.items():
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be {least} or more, got {value}.")
        if not len(self):
            raise ValueError("There is nothing to draw: ask for people with photos, or for leaves.")


def draw_picture(settings: DrawnPictures, index: int) -> np.ndarray:
    """Picture `index` of `settings`: uint8 [size, size, 3]. Faces come first, then the dead leaves.

    Faces are random crops of a larger photo (alignment-free, PFStorer section 3.4).
    """
    rng = np.random.default_rng([settings.seed, index, 1])
    if _is_leaves(settings, index):
        image = dead_leaves(rng, settings.size)
    else:
        person = draw_person(_person_rng(settings, index))
        size = int(settings.size * rng.uniform(1, 1.8))
        image = photograph(person, draw_shot(rng), size).image
        top, left = rng.integers(0, size - settings.size + 1, 2)
        image = image[top : top + settings.size, left : left + settings.size]
    return (image * 255).round().astype(np.uint8)


def describe_picture(settings: DrawnPictures, index: int) -> str:
    """The caption of picture `index`."""
    rng = np.random.default_rng([settings.seed, index, 2])
    if _is_leaves(settings, index):
        return str(rng.choice(SCENES))
    return caption(draw_person(_person_rng(settings, index)), rng)


def draw_pictures(
    settings: DrawnPictures, folder: Path, on_progress: Callable[[Progress], None] = silent
) -> None:
    """Draw the pictures into `folder`, as `find_pictures` reads them: 000000.png and its caption in
    000000.txt, and so on. What is there already is not drawn again.

    Raises:
        ValueError: settings out of range, or the folder holds pictures of other settings.
    """
    settings.check()
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, settings)
    missing = [index for index in range(len(settings)) if not _path(folder, index).exists()]
    done = len(settings) - len(missing)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(partial(_write, settings, folder), missing, chunksize=8):
            done += 1
            on_progress(Progress("pictures", done, len(settings)))


def _claim(folder: Path, settings: DrawnPictures) -> None:
    path, wanted = folder / SETTINGS, asdict(settings)
    if path.exists():
        found = json.loads(path.read_text())
        if found != wanted:
            raise ValueError(
                f"{folder} holds the pictures of {_words(found)}, and not those of {_words(wanted)}: choose "
                "another folder."
            )
        return
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(wanted))


def _words(settings: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _write(settings: DrawnPictures, folder: Path, index: int) -> None:
    """The picture comes last and whole: it says that both files are there."""
    path = _path(folder, index)
    path.with_suffix(".txt").write_text(describe_picture(settings, index), encoding="utf-8")
    temporary = path.with_suffix(".part")
    Image.fromarray(draw_picture(settings, index)).save(temporary, "PNG")
    os.replace(temporary, path)


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:06}.png"


def _is_leaves(settings: DrawnPictures, index: int) -> bool:
    return index >= settings.people * settings.photos


def _person_rng(settings: DrawnPictures, index: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, index // settings.photos, 0])
