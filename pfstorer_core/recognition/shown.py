"""The face that a picture shows, and its embedding."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..imaging.alignment import aligned_face
from ..imaging.faces import Face, find_faces
from ..imaging.resizing import resize

Embed = Callable[[Tensor, Tensor | None], Tensor]
"""`Recognizer.embed`, or what stands for it where a host looks after its network."""
Find = Callable[[Tensor], list[Face]]
"""What `face_finder` makes: for many pictures the detector is loaded once."""
FACE_LIKE = (0.7, 1.4)
"""Ratios of the sides of a picture that is taken for a face where none is found in it."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A face in a picture.

    Attributes:
        picture: [1, 3, H, W] in [0, 1].
        landmarks: [6, 2] in its pixels; None: the picture is the face, as in FFHQ.
    """

    picture: Tensor
    landmarks: Tensor | None

    def cut(self, side: int) -> Tensor:
        """The face, as it lies in FFHQ: [1, 3, side, side]."""
        if self.landmarks is None:
            return resize(self.picture, (side, side)).clamp(0, 1)
        return aligned_face(self.picture, self.landmarks, side)[0]

    def embedded(self, embed: Embed) -> Tensor:
        """[1, D]"""
        return embedding_of(embed, 2 * self.picture - 1, self.landmarks)


def embedding_of(embed: Embed, picture: Tensor, landmarks: Tensor | None) -> Tensor:
    """[1, D] of a picture [1, 3, H, W] in [-1, 1] by the landmarks [6, 2] of its face; None: all of it is
    one."""
    return embed(picture, None if landmarks is None else landmarks[None].to(picture.device))


def shown_in(photo: Tensor, find: Find = find_faces) -> Shown:
    """The largest face in a photo [1, 3, H, W] in [0, 1].

    Raises:
        ValueError: no face in what is no portrait.
    """
    face = largest_face_in(2 * photo[0] - 1, find)
    return Shown(photo, None if face is None else face.landmarks)


def largest_face_in(picture: Tensor, find: Find = find_faces) -> Face | None:
    """The largest face in a picture [3, H, W] in [-1, 1]; None where none is found in what may be a portrait.

    Raises:
        ValueError: no face is found in what is no portrait.
    """
    if faces := find(((picture + 1) / 2).clamp(0, 1).cpu()):
        return max(faces, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))
    height, width = picture.shape[-2:]
    if FACE_LIKE[0] <= height / width <= FACE_LIKE[1]:
        logging.getLogger(__name__).warning("No face is found in a picture: all of it is taken for one.")
        return None
    raise ValueError(
        f"No face is found in a picture of {width} x {height} pixels, so nobody can be recognised in it: "
        "crop the face (Find Faces, or Crop Face with a mask of it), or clean the picture before."
    )
