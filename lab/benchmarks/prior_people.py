"""Who is restored in the benchmark of a CLR-Face prior: people in photographs, and drawn ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..evaluation.cases import CLEAN, Case, CaseSettings, draw_case
from .photographs import Photographs, face_of

DRAWN = 1000
"""Number of the first drawn person."""
LARGER = 2
"""Drawn photos have so many times the side of the faces that are cut out of them."""
SPARE = 4
"""Drawn photos of a person of which no face may be found."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A bad picture, as a case of it alone; `group` is of what people and damage."""

    group: str
    name: str
    case: Case


@dataclass(frozen=True, eq=False)
class People:
    """People of a kind.

    Attributes:
        kind: photographs or drawn.
        first: number of the first one.
        faces: by name, aligned, [references + tests, 3, S, S] in [0, 1].
    """

    kind: str
    first: int
    faces: Mapping[str, Tensor]
    photographs: Photographs

    def cases(self, preset: str) -> dict[str, Case]:
        made = replace(self.photographs, preset=preset)
        return {
            name: made.case(number, faces)
            for number, (name, faces) in enumerate(self.faces.items(), self.first)
        }

    def pictures(self, preset: str) -> Iterator[Picture]:
        """One by one, each with a seed of its own."""
        for name, case in self.cases(preset).items():
            for k in range(len(case.lq)):
                one = replace(case.only(k), seed=case.seed + k)
                yield Picture(f"{self.kind}, {preset}", f"{name} {k}", one)

    @property
    def references(self) -> dict[int, Tensor]:
        """Of each person, by number."""
        count = self.photographs.references
        return {number: faces[:count] for number, faces in enumerate(self.faces.values(), self.first)}

    @property
    def next(self) -> dict[int, int]:
        """Who is the next person, for each."""
        return {self.first + n: self.first + (n + 1) % len(self.faces) for n in range(len(self.faces))}


def photographed(folder: Path, photographs: Photographs) -> People:
    """See `Photographs.faces`."""
    photographs = replace(photographs, aligned=True)
    return People("photographs", 0, photographs.faces(folder), photographs)


def drawn(count: int, photographs: Photographs, tests: int) -> People:
    """People who were drawn for this, with so many pictures to restore of each; no training draws them."""
    photographs = replace(photographs, aligned=True, tests=tests)
    size, seed, wanted = photographs.size, photographs.seed, photographs.references + tests
    faces = {f"drawn {n}": drawn_faces(n, wanted, size, seed) for n in range(count)}
    return People("drawn", DRAWN, faces, photographs)


def drawn_faces(person: int, count: int, size: int, seed: int) -> Tensor:
    """Aligned faces [count, 3, size, size] of a drawn person; raises ValueError where too few are found."""
    settings = CaseSettings(count + SPARE, size=LARGER * size, damage_at=LARGER * size, seed=seed)
    photos = draw_case(settings, person, CLEAN).hq
    found = [face for photo in photos.split(1) for face in face_of(photo, size, aligned=True)]
    if len(found) < count:
        raise ValueError(f"Faces are found in {len(found)} drawn photos, and {count} are needed.")
    return torch.cat(found[:count])
