"""People who do not exist: one person's face in another's photo, so that few people make many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..imaging.alignment import aligned_face, paste_aligned
from ..imaging.color import adain_color_fix
from ..imaging.faces import find_faces
from ..imaging.pictures import to_bytes
from .data import Pictures

SMALLEST = 48.0
"""Pixels of a face that is worth mixing."""
STRENGTH = (0.3, 1.0)
"""Of the other person's face: how much of it there is."""
TRIES = 4
"""Pictures that are looked at for a face before the own one stays."""


@dataclass(eq=False)
class FaceMixture:
    """Puts the face of another picture, upright and in the own one's colours, over the own one.

    Where faces are is looked for once a picture and process; it does not change what comes out.

    Attributes:
        indices: of the pictures that lend their faces.
        share: of the pictures that get one.
    """

    pictures: Pictures
    indices: Sequence[int]
    share: float
    found: dict[int, Tensor | None] = field(default_factory=dict, repr=False)

    def __call__(self, image: Image.Image, index: int, rng: np.random.Generator) -> Image.Image:
        """`image` is picture `index`, 8-bit RGB; it stays as it is where no face is found."""
        if rng.random() >= self.share:
            return image
        others, strength = rng.choice(np.asarray(self.indices), TRIES), float(rng.uniform(*STRENGTH))
        own = _tensor(image)
        if (landmarks := self._landmarks(index, own)) is None:
            return image
        for other in map(int, others):
            foreign = own if other == index else _tensor(self.pictures.read(other))
            if other == index or (there := self._landmarks(other, foreign)) is None:
                continue
            face, place = aligned_face(own, landmarks)
            lent = adain_color_fix(aligned_face(foreign, there)[0], face).clamp(0, 1)
            mixed = paste_aligned(own, lent, place, feather=0.2, strength=strength)
            return Image.fromarray(to_bytes(mixed[0]))
        return image

    def _landmarks(self, index: int, picture: Tensor) -> Tensor | None:
        """Of the largest face of a picture [1, 3, H, W]; None where it has none that can be aligned."""
        if index not in self.found:
            faces = [f for f in find_faces(picture[0], smallest=SMALLEST) if f.landmarks.isfinite().all()]
            largest = max(faces, key=lambda face: face.box[3] - face.box[1], default=None)
            self.found[index] = largest.landmarks if largest else None
        return self.found[index]


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).movedim(-1, 0)[None].float() / 255
