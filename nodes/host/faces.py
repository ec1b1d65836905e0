"""Where faces are, as it comes into a node: the host's boxes, or masks; one for all pictures, or of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...pfstorer_core.imaging.faces import Box, box_of_mask
from .images import from_mask


def boxes_of(bboxes: Any, frames: int) -> list[list[Box]]:
    """The faces of each of so many pictures.

    Args:
        bboxes: one box, a list of them, or a list of them for each picture, as the host has it. What speaks
            of one picture holds for all.
    Raises:
        ValueError: no boxes, or those of another number of pictures.
    """
    given = [bboxes] if isinstance(bboxes, Mapping) else bboxes
    if not isinstance(given, list | tuple):
        raise ValueError(
            f"The input bboxes holds no boxes but a {type(bboxes).__name__}: connect Find Faces."
        )
    by_picture = any(not isinstance(one, Mapping) for one in given)
    several: Sequence[Any] = given if by_picture else [given]
    if len(several) not in (1, frames):
        raise ValueError(
            f"The input bboxes has the boxes of {len(several)} pictures, and the image is {frames}: give "
            "those of one for all, or of each."
        )
    found = [[box for one in _listed(boxes) if (box := _box(one))] for boxes in several]
    return found * frames if len(found) == 1 else found


def _listed(boxes: Any) -> Sequence[Any]:
    if boxes is None:
        return []
    return [boxes] if isinstance(boxes, Mapping) else boxes if isinstance(boxes, list | tuple) else [boxes]


def _box(box: Any) -> Box | None:
    """None where it is empty: so trackers say that they have lost a face."""
    try:
        left, top, width, height = (float(box[name]) for name in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "The input bboxes holds what is no box: each has the numbers x, y, width and height."
        ) from error
    if not all(map(math.isfinite, (left, top, width, height))):
        raise ValueError("The input bboxes holds a box with NaN or infinity: find the faces anew.")
    return (left, top, left + width, top + height) if width > 0 and height > 0 else None


def masked(masks: Any, frames: int, size: tuple[int, int], face: int) -> list[Box | None]:
    """The face of that number, from 1, in each of so many pictures; None where a mask is empty.

    Args:
        masks: of any size. As many as there are pictures, if more than one, are one for each; else each
            shows a face, in all pictures.
        size: height and width of the pictures.
    Raises:
        ValueError: no such mask, or an empty one.
    """
    given = from_mask(masks, "masks")[:, 0]
    tall, wide = size[0] / given.shape[-2], size[1] / given.shape[-1]
    by_picture = len(given) == frames > 1
    if by_picture and face > 1:
        raise ValueError(
            f"There is no face {face}: {frames} masks for {frames} pictures are one of each, with one "
            "face. Set face to 1, or connect bboxes."
        )
    if not by_picture and face > len(given):
        raise ValueError(
            f"There is no face {face} in the input masks, which holds {len(given)}: set face to one of them."
        )
    boxes = list[Box | None]()
    for mask in given if by_picture else given[face - 1 : face]:
        box = box_of_mask(mask)
        scaled = box and (box[0] * wide, box[1] * tall, box[2] * wide, box[3] * tall)
        boxes.append(scaled)
    if not any(boxes):
        which = "All of the input masks are" if by_picture else f"Mask {face} of the input masks is"
        raise ValueError(
            f"{which} empty (nothing above a half): paint the face in it, or connect bboxes of Find Faces."
        )
    return boxes if by_picture else boxes * frames
