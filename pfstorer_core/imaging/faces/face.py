"""A face that was found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture.

    Attributes:
        box: about the face from forehead to chin, within the picture.
        landmarks: (x, y) [6, 2] in pixels of right eye, left eye, nose, mouth, right ear and left ear (right
            is the person's own); NaN where the detector does not tell.
        score: how sure the detector is, 0…1.
    """

    box: Box
    landmarks: Tensor
    score: float

    def moved(self, x: float, y: float) -> Face:
        """In a picture that begins so many pixels before this one."""
        left, top, right, bottom = self.box
        box = left + x, top + y, right + x, bottom + y
        return Face(box, self.landmarks + torch.tensor([x, y]), self.score)
