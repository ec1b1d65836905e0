"""People who do not exist, each in several pictures: mixed from photographs of a few.

A mixed person is one of these with another one's face, of another shape, in other colours, mirrored or not:
what is drawn for a person is the same in all of their pictures, and what is drawn for a picture, such as
which photographs are taken and how they are cropped, is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pfstorer_core.imaging.alignment import aligned_face, paste_aligned
from pfstorer_core.imaging.color import adain_color_fix
from pfstorer_core.imaging.faces import Face, cut, face_square, find_faces
from pfstorer_core.imaging.pictures import read_picture, write_picture
from pfstorer_core.imaging.resizing import resize
from pfstorer_core.training.data import SUFFIXES
from pfstorer_core.training.mixing import SMALLEST
from pfstorer_core.training.progress import Progress, silent

ALIGNED = 384
"""Pixels of the aligned faces that are mixed."""
STRENGTH = (0.5, 1.0)
"""Of the other one's face."""
CELLS, SHIFT, WIDTH = 5, 0.012, 0.08
"""Of a shape: cells of noise along a side, its standard deviation as a part of that, and how much narrower or
wider a face becomes at the most."""
TURNED = 0.3
"""How far the nose lies beside the middle of the eyes, at most, in their distances: no profile is mixed."""
FEATHER = 0.4
"""Of what is put back: hair and outline stay."""
MARGIN, MOVED = (0.45, 0.85), 0.06
"""About a face's box in a picture, as parts of its side, and how far its middle is moved."""


@dataclass(frozen=True)
class MixedPeople:
    """How many, with how many pictures each, of how many pixels; the same seed gives the same ones."""

    people: int = 200
    photos: int = 5
    size: int = 320
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError where there is nothing to mix."""
        for name, least in {"people": 1, "photos": 1, "size": 16, "seed": 0}.items():
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be {least} or more, got {value}.")


@dataclass(frozen=True, eq=False)
class Photograph:
    """One of somebody: picture [1, 3, H, W] in [0, 1], and their face in it."""

    picture: Tensor
    face: Face


@dataclass(frozen=True, eq=False)
class Likeness:
    """What is drawn for a mixed person.

    Attributes:
        own, lent: whose photographs, and whose face.
        strength: of that face.
        shift: where each pixel of the aligned face comes from [1, S, S, 2], in the coordinates of
            `grid_sample`.
        tone: exponents of the three colours. colourful: factor on how far they are from grey.
    """

    own: str
    lent: str
    strength: float
    shift: Tensor
    tone: tuple[float, float, float]
    colourful: float
    mirrored: bool


def photographs(folder: Path) -> dict[str, list[Photograph]]:
    """Those with one face that looks ahead, by the name of their folder.

    Raises:
        ValueError: fewer than two people with such photographs.
    """
    found: dict[str, list[Photograph]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        picture = read_picture(path)
        faces = find_faces(picture[0], smallest=SMALLEST)
        if len(faces) == 1 and turned(faces[0]) < TURNED:
            found.setdefault(path.parent.name, []).append(Photograph(picture, faces[0]))
    if len(found) < 2:
        raise ValueError(f"{folder} needs two folders or more, one for each person, with photos of a face.")
    return found


def turned(face: Face) -> float:
    """How far the nose lies beside the middle of the eyes, in distances of these; infinite where nobody
    knows."""
    right, left, nose, *_ = face.landmarks
    across = left - right
    beside = ((nose - (left + right) / 2) @ across / across.square().sum()).abs()
    return float(beside) if face.landmarks.isfinite().all() else float("inf")


def draw_likeness(people: list[str], rng: np.random.Generator) -> Likeness:
    """Of a mixed person, by whom there is to mix."""
    own, lent = (str(name) for name in rng.choice(people, 2, replace=False))
    noise = torch.from_numpy(rng.normal(0, 2 * SHIFT, (1, 2, CELLS, CELLS))).float()
    shift = F.interpolate(noise, (ALIGNED, ALIGNED), mode="bicubic").movedim(1, -1)
    side = torch.linspace(-1, 1, ALIGNED)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
    wide = torch.tensor([1 + rng.uniform(-WIDTH, WIDTH), 1 + rng.uniform(-WIDTH, WIDTH)]).float()
    one, two, three = (float(value) for value in rng.uniform(0.75, 1.3) * rng.uniform(0.9, 1.11, 3))
    return Likeness(
        own, lent, float(rng.uniform(*STRENGTH)), grid * wide + shift, (one, two, three),
        float(rng.uniform(0.6, 1.3)), bool(rng.random() < 0.5),
    )  # fmt: skip


def picture_of(
    likeness: Likeness, known: dict[str, list[Photograph]], size: int, rng: np.random.Generator
) -> Tensor:
    """[1, 3, size, size] in [0, 1] of a mixed person."""
    own, lent = (known[who][int(rng.integers(len(known[who])))] for who in (likeness.own, likeness.lent))
    face, place = aligned_face(own.picture, own.face.landmarks, ALIGNED)
    foreign = adain_color_fix(aligned_face(lent.picture, lent.face.landmarks, ALIGNED)[0], face)
    mixed = torch.lerp(face, foreign.clamp(0, 1), likeness.strength)
    shaped = F.grid_sample(mixed, likeness.shift, "bicubic", "reflection", align_corners=True).clamp(0, 1)
    picture = paste_aligned(own.picture, shaped, place, FEATHER)
    height, width = picture.shape[-2:]
    left, top, right, bottom = own.face.box
    across, down = (MOVED * (right - left) * value for value in rng.uniform(-1, 1, 2))
    box = (max(left + across, 0), max(top + down, 0), min(right + across, width), min(bottom + down, height))
    square = face_square(box, (height, width), float(rng.uniform(*MARGIN)))
    picture = resize(cut(picture, square), (size, size)).clamp(0, 1)
    light = float(rng.uniform(0.85, 1.15))
    picture = picture ** (light * torch.tensor(likeness.tone)[:, None, None])
    grey = picture.mean(1, keepdim=True)
    picture = torch.lerp(grey, picture, likeness.colourful).clamp(0, 1)
    return picture.flip(-1) if likeness.mirrored else picture


def mix_people(
    source: Path,
    settings: MixedPeople,
    folder: Path,
    on_progress: Callable[[Progress], None] = silent,
) -> None:
    """Write a folder for each mixed person, with their pictures as 0.png, 1.png, … What is there already
    stays.

    Raises:
        ValueError: settings out of range, or see `photographs`.
    """
    settings.check()
    known, total = photographs(source), settings.people * settings.photos
    for person in range(settings.people):
        likeness = draw_likeness(sorted(known), np.random.default_rng([settings.seed, person, 0]))
        for photo in range(settings.photos):
            path = folder / f"{person:05}" / f"{photo}.png"
            if not path.exists():
                rng = np.random.default_rng([settings.seed, person, 1 + photo])
                write_picture(picture_of(likeness, known, settings.size, rng), path)
            on_progress(Progress("pictures", person * settings.photos + photo + 1, total))
