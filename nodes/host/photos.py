"""Photos of one person as they come into a node, and where the face is in each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as mm
from torch import Tensor

from ...pfstorer_core.imaging.faces import Box, box_of_mask, find_faces, whole_pixels
from ...pfstorer_core.personalization.photos import check_count
from .images import from_image, from_mask

Autogrown = Mapping[str, Sequence[Tensor]]
"""What came in by the inputs of one kind: photo_0, photo_1, …, each a list of batches."""


@dataclass
class Person:
    """Photos of a person.

    Attributes:
        photos: [1, 3, H, W] each, in [0, 1].
        boxes: of the face in each; None where it is not known, for the photo's middle.
        notes: what a user should know of how they were found, a sentence each.
    """

    photos: list[Tensor] = field(default_factory=list)
    boxes: list[Box | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather_photos(photos: Autogrown, faces: Autogrown) -> Person:
    """All photos, each with its face by the mask of its number, else by a detector.

    Raises:
        ValueError: no pictures, too many, masks that are empty, or that belong to no photo.
    """
    person = Person()
    pictures = {name: _rows(batches, from_image, f"photos.{name}") for name, batches in photos.items()}
    masks = {name: _rows(batches, from_mask, f"faces.{name}") for name, batches in faces.items()}
    check_count(sum(map(len, pictures.values())))
    for name in masks:
        if name.replace("face", "photo") not in pictures:
            photo = name.replace("face", "photo")
            raise ValueError(f"The mask {name} has no photo: connect {photo}, or leave the mask out.")
    for name, images in pictures.items():
        own = masks.get(name.replace("photo", "face"), [])
        if len(own) not in (0, 1, len(images)):
            raise ValueError(
                f"{name} holds {len(images)} photos, and the masks for them are {len(own)}: give one for "
                "each, or one for all."
            )
        for number, image in enumerate(images):
            mm.throw_exception_if_processing_interrupted()
            person.photos.append(image[None])
            if own:
                mask = own[number if len(own) > 1 else 0][0]
                person.boxes.append(_masked(mask, image, name.replace("photo", "face"), number))
            else:
                person.boxes.append(_detected(image, len(person.photos), person.notes))
    return person


def photos_in(photos: Autogrown) -> list[Tensor]:
    """All photos [3, H, W], in their order; raises ValueError for what is no picture."""
    return [row for name, batches in photos.items() for row in _rows(batches, from_image, f"photos.{name}")]


def _rows(batches: Sequence[Tensor] | Tensor, read: Any, name: str) -> list[Tensor]:
    """Each of a list of batches of any sizes; what is one batch already is taken, too."""
    several = [batches] if isinstance(batches, Tensor) else batches
    return [row for batch in several for row in read(batch, name)]


def _masked(mask: Tensor, image: Tensor, name: str, number: int) -> Box:
    """The box of what a mask [H, W] of any size shows, in a photo [3, H, W]."""
    found = box_of_mask(mask)
    if found is None:
        raise ValueError(
            f"The mask {name} (its number {number + 1}) is empty, so that it shows no face: paint the face "
            "in it, or leave it out. (Load Image gives an empty one for a picture without transparency.)"
        )
    tall, wide = image.shape[-2] / mask.shape[-2], image.shape[-1] / mask.shape[-1]
    left, top, right, bottom = found
    return (
        math.floor(left * wide), math.floor(top * tall),
        min(math.ceil(right * wide), image.shape[-1]), min(math.ceil(bottom * tall), image.shape[-2]),
    )  # fmt: skip


def _detected(image: Tensor, number: int, notes: list[str]) -> Box | None:
    """The box of the largest face in photo `number`; says what a user would not expect."""
    boxes = [face.box for face in find_faces(image, on_tick=mm.throw_exception_if_processing_interrupted)]
    if not boxes:
        notes.append(
            f"Photo {number}: no face was found, so the square in its middle is taken, whatever it shows. "
            "If the preview's crop is not the face, mask it (faces) or leave the photo out."
        )
        return None
    if len(boxes) > 1:
        notes.append(
            f"Photo {number}: {len(boxes)} faces were found, and the largest is taken. If that is not the "
            "person, mask the right one (faces) or cut the photo."
        )
    return whole_pixels(max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1])))
