"""What a recogniser sees of a picture: the face, at the size and place that it knows faces in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..imaging.alignment import Template, alignment_of, warp

EYES_NOSE_MOUTH = (0, 1, 2, 3, 3)
"""In `Face.landmarks`. The middle of the mouth stands for its two corners: where the five are fitted, it
counts twice."""


@dataclass(frozen=True)
class View:
    """Where a recogniser wants a face.

    Attributes:
        side: of the view, in pixels.
        template: of its landmarks.
        margins: what a picture that is a face, as in FFHQ, has around the view: at top, left, bottom and
            right, as parts of its height and width.
    """

    side: int
    template: Template
    margins: tuple[float, float, float, float]

    def of(self, pictures: Tensor, places: Tensor | None = None) -> Tensor:
        """The views of pictures; gradients flow through it, and a pixel that covers several is their mean.

        Args:
            pictures: [B, 3, H, W] in [-1, 1].
            places: landmarks [B, 6, 2] of the faces in pixels, as `Face` has them: each is turned and scaled
                onto the template, and black where its picture ends. None: every picture is a face.
        Returns:
            [B, 3, side, side], not clamped.
        Raises:
            ValueError: other shapes; landmarks that are not numbers, or in one point; pictures of less than
                two pixels.
        """
        if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.numel():
            raise ValueError(f"Expected pictures [B, 3, H, W], got a tensor of shape {list(pictures.shape)}.")
        if places is None:
            return self._middle(pictures)
        if places.shape[0] != len(pictures) or places.shape[2:] != (2,):
            raise ValueError(
                f"Expected the landmarks [B, 6, 2] of {len(pictures)} faces, got {list(places.shape)}."
            )
        return torch.cat([self._aligned(*one) for one in zip(pictures.split(1), places, strict=True)])

    def _middle(self, pictures: Tensor) -> Tensor:
        """As ReF-LDM cuts it (Hsiao et al. 2024): `area` averages where it shrinks, and repeats where it
        enlarges."""
        height, width = pictures.shape[-2:]
        top, left, bottom, right = self.margins
        rows, columns = _between(height, top, bottom), _between(width, left, right)
        return F.interpolate(pictures[..., rows, columns], size=(self.side, self.side), mode="area")

    def _aligned(self, picture: Tensor, landmarks: Tensor) -> Tensor:
        size = (picture.shape[-2], picture.shape[-1])
        alignment = alignment_of(landmarks, size, self.side, self.template)
        # Beyond a picture there are zeros: black, once they are -1.
        return warp(picture + 1, alignment.inverse(), (self.side, self.side), "zeros") - 1


def _between(length: int, before: float, after: float) -> slice:
    first, last = int(before * length), int((1 - after) * length)
    if last <= first:
        raise ValueError(f"A picture of {length} pixels is too small for a face to be recognised in it.")
    return slice(first, last)


def _template(side: int, points: Iterable[tuple[float, float]]) -> Template:
    """From the points of both eyes, the nose and both corners of the mouth."""
    *three, left, right = points
    mouth = (left[0] + right[0]) / 2, (left[1] + right[1]) / 2
    return Template(EYES_NOSE_MOUTH, (*three, mouth, mouth), side)


ARCFACE = View(
    112,
    _template(112, ((38.7946, 52.1963), (74.0318, 52.0014), (56.5252, 72.2366),
                    (42.0493, 92.8655), (71.2299, 92.7041))),
    (1 / 16, 1 / 16, 1 / 16, 1 / 16),
)  # fmt: skip
"""insightface's five points (Deng et al. 2019), half a pixel on since pixel k covers k…k+1 here; without
landmarks, the part of a picture from FFHQ that ReF-LDM takes for it."""
DLIB = View(
    150,
    _template(150, ((48.05, 47.10), (100.98, 47.10), (74.51, 77.06), (50.91, 103.52), (98.11, 103.52))),
    (0.2548, 0.1545, 0.0609, 0.1545),
)
"""The mean face by which dlib cuts chips of 150 pixels with a padding of 0.25, its eyes' six points each put
together; without landmarks, the part of a picture from FFHQ where such a face lies."""
