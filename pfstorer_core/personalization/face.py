"""The face of an adapter's person, as a recogniser knows it: by which they are found in other pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.errors import CheckpointError
from ..checkpoints.fields import Rule, checked, listed, number, text, whole
from ..checkpoints.words import plain
from ..imaging.faces import find_faces
from ..recognition.identification import mean_face
from ..recognition.recognizer import Recognizer
from ..recognition.shown import Find, Shown

DIGITS = 6
SHORTEST = 0.01
"""Of a mean of unit vectors that mean one person."""
RULES: Mapping[str, Rule] = {
    "recognizer": text(200),
    "weights": text(32, "[0-9a-f]{32}"),
    "embedding": listed(number(-1, 1), 2, 4096),
    "photos": whole(1, 1000),
}
"""What its fields may be."""


@dataclass(frozen=True)
class PersonFace:
    """Whom an adapter is of. It is biometric: whoever has it can look for the person in any picture.

    Attributes:
        recognizer: name of the one that it was made by.
        weights: fingerprint of that, see `Recognizer.fingerprint`: others see other things in a face.
        embedding: the person's mean face, see `recognition.identification.mean_face`.
        photos: how many it was made of.
    """

    recognizer: str
    weights: str
    embedding: Sequence[float]
    photos: int

    @classmethod
    def of(cls, values: Mapping[str, Any], what: str) -> PersonFace:
        """Of what a file's header holds; raises CheckpointError, which names `what` and the field."""
        face = cls(**checked(values, RULES, what, tuple(RULES)))
        length = float(torch.tensor(face.embedding, dtype=torch.float64).norm())
        if not SHORTEST <= length <= 1 + 1e-3:
            raise CheckpointError(
                f"{what} is damaged: its embedding is {length:.3g} long, which no mean of unit vectors is."
            )
        return face


def face_of(recognizer: Recognizer, photos: Sequence[Tensor], find: Find = find_faces) -> PersonFace | None:
    """Of the largest face in each of a person's photos [3, H, W] in [0, 1]; photos in which none is found say
    nothing. None: there is none in any."""
    shown = list[Shown]()
    for photo in photos:
        if faces := find(photo):
            largest = max(faces, key=lambda one: (one.box[2] - one.box[0]) * (one.box[3] - one.box[1]))
            shown.append(Shown(photo[None], largest.landmarks))
    if not shown:
        return None
    embedding = [round(value, DIGITS) for value in mean_face(recognizer.embed, shown).tolist()]
    return PersonFace(plain(recognizer.name), recognizer.fingerprint, embedding, len(shown))
