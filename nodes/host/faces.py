"""Where faces are, as it comes into a node: the host's boxes, or masks; one for all pictures, or of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...pfstorer_core.imaging.faces import (
    Box,
    Face,
    box_of_mask,
    masks_of_boxes,
)
from .images import from_mask


def faces_of(bboxes: Any, frames: int) -> list[list[Face]]:
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
    found = [[face for one in _listed(boxes) if (face := _face(one))] for boxes in several]
    return found * frames if len(found) == 1 else found


def picture_of(bboxes: Any) -> int | None:
    """Which picture of a list the boxes are in, where Choose Identity wrote it into them."""
    if isinstance(bboxes, Mapping):
        return bboxes.get(PICTURE)
    given = bboxes if isinstance(bboxes, list | tuple) else []
    return next((number for one in given if (number := picture_of(one)) is not None), None)


def _listed(boxes: Any) -> Sequence[Any]:
    if boxes is None:
        return []
    return [boxes] if isinstance(boxes, Mapping) else boxes if isinstance(boxes, list | tuple) else [boxes]


def _face(box: Any) -> Face | None:
    """None where it is empty: so trackers say that they have lost a face."""
    try:
        left, top, width, height = (float(box[name]) for name in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "The input bboxes holds what is no box: each has the numbers x, y, width and height."
        ) from error
    if not all(map(math.isfinite, (left, top, width, height))):
        raise ValueError("The input bboxes holds a box with NaN or infinity: find the faces anew.")
    if width <= 0 or height <= 0:
        return None
    return Face((left, top, left + width, top + height), _landmarks(box.get(LANDMARKS)), 1.0)


def _landmarks(given: Any) -> Tensor:
    """[6, 2], of what Find Faces wrote into a box; NaN where that is not known."""
    landmarks = UNKNOWN.clone()
    try:
        points = torch.tensor(given, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        return landmarks
    if points.shape == (KNOWN, 2):
        landmarks[:KNOWN] = points
    return landmarks


LANDMARKS, KNOWN = "landmarks", 4
"""Key of a box for eyes, nose and mouth, which all detectors tell: a list of (x, y)."""
OTHERS = "others"
"""Key of a box for the boxes (left, top, right, bottom) of the other faces in the picture."""
PICTURE = "picture"
"""Key of a box for the number of its picture in a list of pictures, from 0."""
UNKNOWN = torch.full((6, 2), math.nan)


def chosen_face(
    image: Tensor, number: int, bboxes: Any = None, masks: Tensor | None = None
) -> list[Face | None]:
    """The face of that number, from 1, in each of the pictures [B, 3, H, W]; None where there is no such.

    Raises:
        ValueError: no boxes or masks, nothing in them, or those of other pictures.
    """
    if masks is not None:
        boxes = boxes_of_masks(masks, len(image), (image.shape[-2], image.shape[-1]), number)
        return [None if box is None else Face(box, UNKNOWN, 1.0) for box in boxes]
    if bboxes is None:
        raise ValueError("Crop Face does not know where the face is: connect bboxes or masks.")
    chosen = [of[number - 1] if number <= len(of) else None for of in faces_of(bboxes, len(image))]
    if not any(chosen):
        raise ValueError(
            f"There is no face {number} in what was given: connect bboxes of Find Faces, or masks, or "
            "choose a smaller number."
        )
    return chosen


def others_of(bboxes: Any, frames: int, number: int) -> list[tuple[Box, ...]]:
    """Boxes of the faces in each picture that are not the face of that number."""
    if bboxes is None:
        return [()] * frames
    given = list(_listed(bboxes))
    several = given if any(not isinstance(one, Mapping) for one in given) else [given]
    several *= frames if len(several) == 1 else 1
    found = list[tuple[Box, ...]]()
    for faces, boxes in zip(faces_of(bboxes, frames), several, strict=True):
        beside = [face.box for face in faces[: number - 1] + faces[number:]]
        written = [box for one in _listed(boxes) if isinstance(one, Mapping) for box in one.get(OTHERS, ())]
        found.append((*beside, *map(tuple, written)))
    return found


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


def host_boxes(faces: list[Face]) -> list[dict[str, Any]]:
    """The host's boxes, with the landmarks by which Crop Face aligns."""
    boxes = list[dict[str, Any]]()
    for face in faces:
        left, top, right, bottom = face.box
        place = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        boxes.append({**place, "label": "face", LANDMARKS: face.landmarks[:KNOWN].tolist()})
    return boxes


def masks_of_faces(found: list[list[Face]], pictures: Tensor) -> Tensor:
    """[N, H, W]: of each face of one picture, or of all faces in each of several."""
    size = pictures.shape[-2], pictures.shape[-1]
    if len(found) == 1:
        return masks_of_boxes([face.box for face in found[0]], size)
    each = [masks_of_boxes([face.box for face in faces], size).sum(0).clamp(max=1) for faces in found]
    return torch.stack(each)
