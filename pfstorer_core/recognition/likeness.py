"""How like a person pictures are, beside what the person's own photos have, and what strangers have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from einops import rearrange
from torch import Tensor

from ..degradation.sheet import sheet_of
from ..imaging.faces import find_faces
from ..imaging.pictures import read_picture
from .recognizer import cosines, mean_of_units
from .shown import Embed, Find, Shown, shown_in

STRANGERS = Path(__file__).parent / "data" / "strangers.jpg"
"""Faces of PyPI's openpeople (MIT): people who do not exist."""
COLUMNS, CELL = 3, 128
"""Of that picture: faces in a row, and pixels of their sides, as on a sheet."""
SAME_SHAPE = 0.02
"""Up to which the ratios of two pictures' sides differ that show the same: what a few pixels make."""


@dataclass(frozen=True)
class Likeness:
    """Cosines, by one recogniser, to the mean of a person's photos.

    Attributes:
        pictures: of each picture, by name.
        own: of each photo to the mean of the others; none where there is one alone.
        strangers: of others.
    """

    pictures: Mapping[str, float]
    own: Sequence[float]
    strangers: Sequence[float]

    def lines(self, recognizer: str) -> list[str]:
        """In words; `recognizer` is its name."""
        mean = f"the mean of {len(self.own)} photos" if self.own else "the photo"
        among = _range(self.own) if self.own else "there is one alone"
        return [
            f"Likeness by {recognizer}, a cosine to {mean}:",
            *(f"  {name}: {value:.3f}{self._share(value)}" for name, value in self.pictures.items()),
            f"  own photos among themselves: {among}",
            f"  strangers: {_range(self.strangers)}",
        ]

    def _share(self, value: float) -> str:
        low = fmean(self.strangers)
        if not self.own or (high := fmean(self.own)) <= low:
            return ""
        return f" ({100 * (value - low) / (high - low):.0f} % of the way from strangers to own photos)"


def measured(embed: Embed, pictures: Mapping[str, Sequence[Shown]], photos: Sequence[Shown]) -> Likeness:
    """How like the person in photos pictures are; of several under one name, the mean.

    Raises:
        ValueError: no photos.
    """
    if not photos:
        raise ValueError("Without photos of the person nothing can be said of a likeness: connect one.")
    with torch.no_grad():
        own = torch.cat([photo.embedded(embed) for photo in photos])
        person, all_of_them = mean_of_units(own), range(len(own))
        found = {
            name: torch.cat([cosines(one.embedded(embed), person) for one in shown])
            for name, shown in pictures.items()
        }
        among = [
            float(cosines(own[n], mean_of_units(own[[m for m in all_of_them if m != n]])))
            for n in all_of_them
            if len(own) > 1
        ]
        beside = cosines(embed(2 * strangers() - 1, None), person).tolist()
    # Who is as like the person as the person is no stranger: it may be one of the atlas.
    others = [value for value in beside if not among or value < fmean(among)] or beside
    return Likeness({name: float(values.mean()) for name, values in found.items()}, among, others)


def strangers() -> Tensor:
    """Faces [N, 3, S, S] in [0, 1] of people who do not exist, as they lie in FFHQ."""
    return rearrange(read_picture(STRANGERS), "1 k (r h) (c w) -> (r c) k h w", h=CELL, w=CELL)


def shown_alike(pictures: Sequence[Tensor], find: Find = find_faces) -> list[Shown]:
    """The face in pictures [1, 3, H, W] of the same, from the worst to the best, of any sizes: it is looked
    for in the best one alone, so that how well it is found in bad ones does not count.

    Raises:
        ValueError: no face in the best one, or in one that is of another shape.
    """
    best = shown_in(pictures[-1], find)
    found = [best]
    for picture in reversed(pictures[:-1]):
        (height, width), (high, wide) = picture.shape[-2:], best.picture.shape[-2:]
        if abs(height * wide / (width * high) - 1) > SAME_SHAPE:
            found.append(shown_in(picture, find))
        elif best.landmarks is None:
            found.append(Shown(picture, None))
        else:
            found.append(Shown(picture, best.landmarks * torch.tensor([width / wide, height / high])))
    return found[::-1]


def likeness_sheet(
    pictures: Mapping[str, Sequence[Shown]], photos: Sequence[Shown], found: Sequence[Likeness]
) -> Tensor:
    """All faces with their likenesses, by each recogniser in turn: photos, the first picture of each name,
    strangers; [1, 3, H, W] in [0, 1]."""
    own = zip(*(one.own for one in found), strict=True)
    captions = [_numbers(values) for values in own] or [""] * len(photos)
    named = {
        f"{name} {_numbers(one.pictures[name] for one in found)}": shown[0]
        for name, shown in pictures.items()
    }
    rows = [
        [(f"photo {text}", photo.cut(CELL)) for text, photo in zip(captions, photos, strict=True)],
        [(caption, shown.cut(CELL)) for caption, shown in named.items()],
        [("stranger", face[None]) for face in strangers()],
    ]
    columns = max(map(len, rows))
    blank = ("", torch.full((1, 3, CELL, CELL), 24 / 255))
    panels = [panel for row in rows for panel in [*row, *[blank] * (columns - len(row))]]
    return sheet_of(panels, CELL, columns)


def _numbers(values: Iterable[float]) -> str:
    return " · ".join(f"{value:.2f}" for value in values)


def _range(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} ({min(values):.3f} … {max(values):.3f})"
