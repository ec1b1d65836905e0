"""Drawn pictures to train on, made once and kept in a cache folder."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pfstorer_core.checkpoints.files import written
from pfstorer_core.training.progress import Progress, silent

from .captions import SCENES, caption

PEOPLE = 2000


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

    people: int = PEOPLE
    photos: int = 2
    leaves: int = 800
    size: int = 128
    seed: int = 1

    def __len__(self) -> int:
        return self.people * self.photos + self.leaves


@dataclass(frozen=True)
class Drawn:
    """Drawn pictures as `Pictures`: uint8 [N, size, size, 3], mapped from their file."""

    settings: DrawnPictures
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        return f"drawn picture {index}"

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def caption(self, index: int) -> str:
        from lab.people import draw_person

        rng = np.random.default_rng([self.settings.seed, index, 2])
        if _is_leaves(self.settings, index):
            return str(rng.choice(SCENES))
        return caption(draw_person(_person_rng(self.settings, index)), rng)


def draw_picture(settings: DrawnPictures, index: int) -> np.ndarray:
    """Picture `index` of `settings`: uint8 [size, size, 3]. Faces come first, then the dead leaves.

    Faces are random crops of a larger photo (alignment-free, PFStorer section 3.4).
    """
    from lab.people import dead_leaves, draw_person, draw_shot, photograph

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


def drawn_pictures(
    settings: DrawnPictures, folder: Path, on_progress: Callable[[Progress], None] = silent
) -> Drawn:
    """Draw them on the first call, and read them from `folder` afterwards."""
    counts = f"{settings.people}x{settings.photos}+{settings.leaves}"
    path = folder / f"drawn-{counts}-{settings.size}px-seed{settings.seed}.npy"
    if not path.exists():
        pictures = np.empty((len(settings), settings.size, settings.size, 3), np.uint8)
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            drawn = pool.map(partial(draw_picture, settings), range(len(settings)), chunksize=8)
            for index, picture in enumerate(drawn):
                pictures[index] = picture
                on_progress(Progress("pictures", index + 1, len(settings)))
        with written(path) as temporary, temporary.open("wb") as file:
            np.save(file, pictures)
    return Drawn(settings, np.load(path, mmap_mode="r"))


def _is_leaves(settings: DrawnPictures, index: int) -> bool:
    return index >= settings.people * settings.photos


def _person_rng(settings: DrawnPictures, index: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, index // settings.photos, 0])
