"""Faces of many people to train a recogniser on: drawn ones, and photographs with people made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pfstorer_core.imaging.alignment import Template, alignment_of, warp
from pfstorer_core.imaging.faces import Face, face_finder
from pfstorer_core.imaging.pictures import read_picture
from pfstorer_core.recognition.view import ARCFACE
from pfstorer_core.training.data import SUFFIXES

from ..evaluation.align import CROP
from ..evaluation.faces import RIM, DrawnFaces
from ..evaluation.identity import OWN_ZOOM

SIDE = CROP + 2 * RIM
ZOOM = OWN_ZOOM * CROP / SIDE
"""Of the template in a picture of a face: there is room to move in."""
CELLS, BENT, NARROWED = 5, 0.05, 0.1
"""Of the map that bends one person's faces into another's: its cells along a side, how far it moves points,
and how much narrower or wider a face becomes, as parts of the side."""


def photographs(folder: Path) -> dict[str, Tensor]:
    """The faces [P, 3, SIDE, SIDE], uint8, in the pictures of a folder, by person: what their names begin
    with, up to the first underscore. What no face is found in is left out.

    Raises:
        ValueError: no faces.
    """
    find = face_finder()
    found: dict[str, list[Tensor]] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
        picture = read_picture(path)
        faces = find(picture[0])
        if faces:
            person = path.stem.partition("_")[0]
            found.setdefault(person, []).append(_cut(picture, max(faces, key=_width)))
    if not found:
        raise ValueError(f"No faces were found in the pictures of {folder}.")
    return {person: torch.stack(faces) for person, faces in found.items()}


class FaceSamples:
    """Samples for `fit`, half of them drawn and half photographs: a random face of a random person.

    Of each photographed person, so many others are made by bending all their faces alike.
    """

    def __init__(self, drawn: DrawnFaces, photographed: Mapping[str, Tensor], bent: int, seed: int) -> None:
        self.drawn, self.photographed = drawn, list(photographed.values())
        self.bent, self.seed = bent, seed

    @property
    def people(self) -> int:
        return self.drawn.count + len(self.photographed) * self.bent

    def __len__(self) -> int:
        photos = sum(map(len, self.photographed)) * self.bent
        return self.drawn.count * self.drawn.photos + photos

    def __getitem__(self, k: int, /) -> dict[str, Any]:
        who, photo, seed = self.drawn.draw(self.seed, k)
        rng = np.random.default_rng(seed)
        if self.photographed and rng.random() < 0.5:
            person, bend = int(rng.integers(len(self.photographed))), int(rng.integers(self.bent))
            faces = self.photographed[person]
            face = faces[int(rng.integers(len(faces)))]
            image = bent(face, np.random.default_rng([self.seed, person, bend])) if bend else face
            who = self.drawn.count + person * self.bent + bend
        else:
            image = self.drawn.get("faces", who)[photo]
        return {"image": image, "who": torch.tensor(who), "seed": seed, "broken": ()}


def bent(face: Tensor, rng: np.random.Generator) -> Tensor:
    """The face [3, S, S], uint8, of another person, whom the same random numbers make of each picture."""
    field = torch.from_numpy(rng.normal(0, BENT, (1, 2, CELLS, CELLS))).float()
    side = face.shape[-1]
    moved = F.interpolate(field, (side, side), mode="bicubic", align_corners=True)[0].movedim(0, -1)
    wide, tall = 1 + rng.uniform(-NARROWED, NARROWED, 2)
    scale = torch.tensor([[wide, 0, 0], [0, tall, 0]], dtype=torch.float32)
    grid = F.affine_grid(scale[None], [1, 3, side, side], align_corners=False) + moved
    warped = F.grid_sample(face[None].float(), grid, align_corners=False, padding_mode="border")
    return warped[0].round().clamp(0, 255).byte()


def _cut(picture: Tensor, face: Face) -> Tensor:
    template = ARCFACE.template
    points = tuple(
        ((x - CROP / 2) * ZOOM + CROP / 2, (y - CROP / 2) * ZOOM + CROP / 2) for x, y in template.points
    )
    place = alignment_of(
        face.landmarks, (picture.shape[-2], picture.shape[-1]), SIDE, Template(template.used, points, CROP)
    )
    cut = warp(picture, place.inverse(), (SIDE, SIDE), "zeros")
    return (cut[0].clamp(0, 1) * 255).round().byte()


def _width(face: Face) -> float:
    return face.box[2] - face.box[0]
