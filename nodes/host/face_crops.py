"""What Crop Face hands to Paste Face: where faces were cut out, and how they were aligned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor

from ...pfstorer_core.imaging.alignment import (
    SIZE,
    Alignment,
    alignment_of,
    cut_aligned,
    paste_aligned,
    steady,
)
from ...pfstorer_core.imaging.faces import Box, Face, Window, cut, face_in, mask_of_others, paste
from ...pfstorer_core.imaging.resizing import resize
from .faces import KNOWN
from .images import from_image, from_mask

Places = tuple[Window | Alignment | None, ...]


@dataclass(frozen=True)
class FaceCrop:
    """Where faces were cut out.

    Attributes:
        windows: a window, or how it was aligned, for each picture of a batch; None where there was no face.
        boxes: of the face in each picture, None where there is none, and of the other faces in it.
        picture: which of a list of pictures that was, from 0; None: there is only one, or nobody knows.
    """

    windows: Places
    boxes: tuple[tuple[Box | None, tuple[Box, ...]], ...] = ()
    picture: int | None = None

    def of_each(self, pictures: int) -> FaceCrop:
        """What is of one picture, for several versions of it."""
        times = pictures if len(self.windows) == 1 else 1
        return replace(self, windows=self.windows * times, boxes=self.boxes * times)


ASPECT_TOLERANCE = 0.05
"""Sides are rounded where a picture is enlarged."""


def check_fit(pictures: Tensor, parts: Tensor, windows: Places) -> None:
    """Raises ValueError where faces and their windows do not belong to the pictures."""
    there = [window for window in windows if window]
    if len(windows) != len(pictures):
        raise ValueError(
            f"The input face_crop was cut from {len(windows)} pictures, and the image is {len(pictures)}: "
            "connect the same pictures, or enlarged copies of them."
        )
    if len(parts) not in (1, len(there)):
        raise ValueError(
            f"{len(parts)} faces do not fit the {len(there)} that Crop Face cut out: give one, or as many."
        )
    height, width = pictures.shape[-2:]
    tall, wide = there[0].size
    if abs(height * wide / (width * tall) - 1) > ASPECT_TOLERANCE:
        raise ValueError(
            f"The face was cut from a picture of {wide} x {tall} pixels, and the image has {width} x "
            f"{height}: connect the same picture, or an enlarged copy of the same shape."
        )


def side_of_aligned(align: str, model: Any) -> int:
    """Pixels that faces are aligned to; 0 where they are not.

    Args:
        align: auto, none or FFHQ; auto asks the MODEL, and without one is none.
    """
    header = getattr(getattr(model, "model", None), "header", None)
    chosen = getattr(header, "aligned", "") if align == "auto" else align
    return (header.image_size if header else SIZE) if chosen == "FFHQ" else 0


def aligned(image: Tensor, faces: Sequence[Face | None], side: int, on_tick: Callable[[], object]) -> Places:
    """How the faces of a film [B, 3, H, W] are aligned. A frame in which no landmarks are found has those of
    the nearest one in which they are, moved with the box.

    Raises:
        ValueError: there are no landmarks in any.
    """
    known = list[Face | None]()
    for picture, face in zip(image, faces, strict=True):
        if face and not face.landmarks[:KNOWN].isfinite().all():
            found = face_in(face.box, picture, on_tick)
            face = found and replace(face, landmarks=found.landmarks)
        known.append(face)
    if not any(known):
        raise ValueError(
            "No eyes and mouth were found in the face, by which it would be aligned: set align to none, or "
            "give boxes of Find Faces, or a mask of all of the face."
        )
    size = image.shape[-2], image.shape[-1]
    marks = steady([face and _held(face, n, known) for n, face in enumerate(faces)])
    return tuple(None if points is None else alignment_of(points, size, side) for points in marks)


def _held(face: Face, n: int, known: Sequence[Face | None]) -> Tensor:
    """Landmarks of the face in frame n, by those of the nearest frame in which they are known."""
    nearest = min((k for k, one in enumerate(known) if one), key=lambda k: abs(k - n))
    like = known[nearest]
    assert like is not None
    (left, top, right, bottom), (x, y, x_end, y_end) = face.box, like.box
    start, size = torch.tensor([x, y]), torch.tensor([x_end - x, y_end - y])
    relative = (like.landmarks - start) / size
    return relative * torch.tensor([right - left, bottom - top]) + torch.tensor([left, top])


def cut_out(image: Tensor, place: Window | Alignment) -> Tensor:
    """The part [B, 3, h, w] of pictures [B, 3, H, W]."""
    return cut_aligned(image, place) if isinstance(place, Alignment) else cut(image, place)


def put_back(
    image: Tensor, part: Tensor, place: Window | Alignment, feather: float, strength: float,
    keep: Tensor | None,
) -> Tensor:  # fmt: skip
    """See `paste` and `paste_aligned`."""
    if isinstance(place, Alignment):
        return paste_aligned(image, part, place, feather, strength, keep)
    return paste(image, part, place, feather, strength, keep)


def kept_masks(keep: Any, pictures: int) -> list[Tensor | None]:
    """MASK [B or 1, h, w] of any size -> for each picture [1, 1, h, w], or None.

    Raises:
        ValueError: another number of masks.
    """
    if keep is None:
        return [None] * pictures
    masks = from_mask(keep, "keep")
    if len(masks) not in (1, pictures):
        raise ValueError(
            f"{len(masks)} masks to keep do not fit {pictures} pictures: give one, or one for each."
        )
    return list(masks.expand(pictures, -1, -1, -1).split(1))


def with_others(
    keep: Tensor | None, crop: FaceCrop, number: int, size: tuple[int, int], feather: float
) -> Tensor | None:
    """What is to be kept [1, 1, h, w] of a picture of that size, and the other faces in it."""
    (own, others), window = crop.boxes[number] if crop.boxes else (None, ()), crop.windows[number]
    if own is None or window is None or not others:
        return keep
    tall, wide = size[0] / window.size[0], size[1] / window.size[1]
    scaled = [(box[0] * wide, box[1] * tall, box[2] * wide, box[3] * tall) for box in (own, *others)]
    soft = feather * max(scaled[0][2] - scaled[0][0], scaled[0][3] - scaled[0][1])
    mask = mask_of_others(scaled[0], scaled[1:], size, soft)
    return mask if keep is None else torch.maximum(mask, resize(keep.to(mask), size))


def pasted(
    image: Tensor, face: Tensor, face_crop: FaceCrop, feather: float, strength: float, keep: Tensor | None
) -> Tensor:
    """IMAGE with a restored face, in each of its pictures that has it; alpha stays.

    Raises:
        ValueError: see `check_fit` and `kept_masks`.
    """
    pictures, parts = from_image(image), from_image(face, "face")
    crop = face_crop.of_each(len(pictures))
    check_fit(pictures, parts, crop.windows)
    kept = kept_masks(keep, len(pictures))
    there = [(n, window) for n, window in enumerate(crop.windows) if window]
    result = pictures.clone()
    for part, (n, window) in zip(parts.expand(len(there), -1, -1, -1), there, strict=True):
        mm.throw_exception_if_processing_interrupted()
        keep = with_others(kept[n], crop, n, (pictures.shape[-2], pictures.shape[-1]), feather)
        result[n] = put_back(pictures[n : n + 1], part[None], window, feather, strength, keep)[0]
    alpha = image[..., 3:].to(result).movedim(-1, 1)
    return torch.cat([result, alpha], 1).movedim(1, -1)


def pasted_in_list(pictures: Sequence[Tensor], rounds: Sequence[Sequence[Any]]) -> list[Tensor]:
    """IMAGEs, each with all faces that were cut from it; those from which none was stay as they are.

    Args:
        pictures: one, or as many as the faces came from.
        rounds: of each face what `pasted` takes beside the picture.
    Raises:
        ValueError: there is no such picture; see `pasted`, too.
    """
    results = list(pictures)
    for face, crop, *how in rounds:
        number = crop.picture or 0
        if number >= len(results):
            raise ValueError(
                f"A face was cut from picture {number + 1} of a list, and the input image holds "
                f"{len(results)}: connect the same pictures, or enlarged copies of them."
            )
        results[number] = pasted(results[number], face, crop, *how)
    return results
