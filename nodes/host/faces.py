"""Where faces are, as it comes into a node: the host's boxes, or masks; one for all pictures, or of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...pfstorer_core.imaging.faces import (
    Box,
    Window,
    box_of_mask,
    masks_of_boxes,
)
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


def boxes_of_masks(masks: Any, frames: int, size: tuple[int, int], face: int) -> list[Box | None]:
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


@dataclass(frozen=True)
class FaceCrop:
    """Where faces were cut out: a window for each picture of a batch, None where there was no face."""

    windows: tuple[Window | None, ...]


ASPECT_TOLERANCE = 0.05
"""Sides are rounded where a picture is enlarged."""


def check_fit(pictures: Tensor, parts: Tensor, windows: tuple[Window | None, ...]) -> None:
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


def host_boxes(boxes: list[Box]) -> list[dict[str, Any]]:
    return [
        {"x": left, "y": top, "width": right - left, "height": bottom - top, "label": "face"}
        for left, top, right, bottom in boxes
    ]


def masks_of_faces(found: list[list[Box]], pictures: Tensor) -> Tensor:
    """[N, H, W]: of each face of one picture, or of all faces in each of several."""
    size = pictures.shape[-2], pictures.shape[-1]
    if len(found) == 1:
        return masks_of_boxes(found[0], size)
    each = [masks_of_boxes(boxes, size).sum(0).clamp(max=1) for boxes in found]
    return torch.stack(each)
