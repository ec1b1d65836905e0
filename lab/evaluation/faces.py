"""Drawn people for the judges: whole photos with landmarks, and aligned faces, kept in files."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.imaging.canvas import resize
from pfstorer_core.training.progress import Progress, silent

from ..people import LANDMARKS, draw_person, draw_shot, photograph
from .align import CROP, FIVE, align
from .cases import drawing
from .identity import OWN_ZOOM
from .landmarks import INPUT
from .traits import trait_vector

STREAM = 0x6A756467
"""First word of every seed here: no restorer is trained on these people, no case shows them."""

DRAWN = 256
"""Side of the photos as they are drawn."""

RIM = 8
"""Pixels about an aligned face."""

SHARD = 50
"""People in a file."""


@dataclass(frozen=True, eq=False)
class DrawnFaces:
    """P photos of each of `count` people, mapped from their files.

    `get` gives of one person: `pictures` and `faces` (aligned by `OWN_ZOOM`, with a rim of `RIM` pixels to
    move in), uint8 [P, 3, 128, 128]; `landmarks` [P, K, 2] as parts of the picture's sides; `visible` bool
    [P, K]; `traits` [T].
    """

    shards: Sequence[dict[str, Tensor]]
    first: int
    count: int

    def get(self, name: str, who: int) -> Tensor:
        if not 0 <= who < self.count:
            raise IndexError(f"Person {who} of {self.count}.")
        shard, place = divmod(self.first + who, SHARD)
        return self.shards[shard][name][place]

    def all(self, name: str) -> Tensor:
        """`get` of everyone, stacked."""
        return torch.stack([self.get(name, who) for who in range(self.count)])

    @property
    def photos(self) -> int:
        return len(self.get("visible", 0))

    def part(self, first: int, count: int) -> DrawnFaces:
        return DrawnFaces(self.shards, self.first + first, count)

    def draw(self, seed: int, k: int) -> tuple[int, int, int]:
        """A random person, one of the photos, and a seed for what is still to be drawn."""
        rng = np.random.default_rng([seed, k])
        return int(rng.integers(self.count)), int(rng.integers(self.photos)), int(rng.integers(2**31))


class FaceSamples:
    """Faces for `fit`: sample k is a random photo of a random person, whose `traits` are [N, T]."""

    def __init__(self, drawn: DrawnFaces, traits: Tensor, seed: int) -> None:
        self.drawn, self.traits, self.seed = drawn, traits, seed

    def __len__(self) -> int:
        return self.drawn.count * self.drawn.photos

    def __getitem__(self, k: int, /) -> dict[str, Any]:
        who, photo, seed = self.drawn.draw(self.seed, k)
        face = self.drawn.get("faces", who)[photo]
        traits = self.traits[who]
        return {"image": face, "who": torch.tensor(who), "traits": traits, "seed": seed, "broken": ()}


class PhotoSamples:
    """Whole photos and their landmarks, likewise."""

    def __init__(self, drawn: DrawnFaces, seed: int) -> None:
        self.drawn, self.seed = drawn, seed

    def __len__(self) -> int:
        return self.drawn.count * self.drawn.photos

    def __getitem__(self, k: int, /) -> dict[str, Any]:
        who, photo, seed = self.drawn.draw(self.seed, k)
        image, landmarks, visible = (
            self.drawn.get(name, who)[photo] for name in ("pictures", "landmarks", "visible")
        )
        return {"image": image, "landmarks": landmarks, "visible": visible, "seed": seed, "broken": ()}


def draw_faces(seed: int, photos: int, person: int) -> dict[str, np.ndarray]:
    """One person of `DrawnFaces`."""
    who = draw_person(np.random.default_rng([STREAM, seed, person, 0]))
    rng = np.random.default_rng([STREAM, seed, person, 1])
    shots = [photograph(who, draw_shot(rng), DRAWN) for _ in range(photos)]
    images = torch.from_numpy(rearrange([shot.image for shot in shots], "b h w c -> b c h w"))
    landmarks = torch.from_numpy(np.stack([shot.landmarks for shot in shots]))
    five = landmarks[:, [LANDMARKS.index(name) for name in FIVE]]
    side = CROP + 2 * RIM
    return {
        "pictures": _bytes(resize(images, (INPUT, INPUT))),
        "faces": _bytes(align(images, five, OWN_ZOOM * CROP / side, side)),
        "landmarks": landmarks.numpy() / DRAWN,
        "visible": np.stack([shot.visible for shot in shots]),
        "traits": trait_vector(who).numpy(),
    }


def drawn_faces(
    people: int, photos: int, seed: int, folder: Path, on_progress: Callable[[Progress], None] = silent
) -> DrawnFaces:
    """Drawn on the first call, then read from `folder`; an interrupted call goes on after its last file, and
    another state of the drawing starts anew."""
    starts = range(0, people, SHARD)
    stem = f"judges-{drawing()}-seed{seed}-{photos}-photos"
    paths = [folder / f"{stem}-{start:06d}.safetensors" for start in starts]
    if not all(path.exists() for path in paths):
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            for start, path in zip(starts, paths, strict=True):
                if not path.exists():
                    drawn = pool.map(
                        partial(draw_faces, seed, photos), range(start, start + SHARD), chunksize=2
                    )
                    _save(list(drawn), path)
                on_progress(Progress("faces", min(start + SHARD, people), people))
    return DrawnFaces([_load(path) for path in paths], 0, people)


def _save(people: list[dict[str, np.ndarray]], path: Path) -> None:
    tensors = {name: torch.from_numpy(np.stack([one[name] for one in people])) for name in people[0]}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary)


def _load(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _bytes(images: Tensor) -> np.ndarray:
    return (images.clamp(0, 1) * 255).round().byte().contiguous().numpy()
