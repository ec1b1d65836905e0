"""Faces in pictures: where they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor

from .blazeface import detect, load_blazeface
from .face import Box, Face
from .windows import cut, face_windows
from .yunet import yunet

CONTEXT, SMALLEST = 1.0, 0.3
"""What is looked through about a box, and its smallest face, as parts of it."""


def face_finder(
    model: Path | str | None = None,
    smallest: float = 0,
    largest: float = 0,
    on_tick: Callable[[], object] = lambda: None,
) -> Callable[[Tensor], list[Face]]:
    """What finds the faces in a picture [3, H, W] in [0, 1], from left to right: for many pictures in a row.

    Args:
        model: YuNet's ONNX file (OpenCV's model zoo); None takes the built-in BlazeFace, which finds faces
            of 24 pixels and more in pictures of up to 2048 pixels, and larger ones in proportion.
        smallest: longer side of the box of the smallest face, in pixels; 0 for no limit.
        largest: that of the largest face; 0 for no limit.
        on_tick: called again and again by the built-in one; raise in it to stop.
    Raises:
        ImportError: a model is given and OpenCV is not installed.
        ValueError: the largest is smaller than the smallest. What is given back raises it where OpenCV cannot
            read the model.
    """
    if smallest < 0 or largest < 0 or 0 < largest < smallest:
        raise ValueError(
            f"No face has {smallest:g} pixels at the least and {largest:g} at the most: make the largest "
            "size larger than the smallest, or 0 for no limit."
        )
    if model is None:
        find = partial(detect, load_blazeface(), smallest=smallest, largest=largest, on_tick=on_tick)
    else:
        find = yunet(model)

    def within(face: Face) -> bool:
        left, top, right, bottom = face.box
        return smallest <= max(right - left, bottom - top) <= (largest or math.inf)

    return lambda image: sorted(filter(within, find(image)), key=lambda face: face.box)


def find_faces(
    image: Tensor, model: Path | str | None = None, smallest: float = 0, largest: float = 0,
    on_tick: Callable[[], object] = lambda: None,
) -> list[Face]:  # fmt: skip
    """The faces in one picture; arguments and errors as `face_finder` has them."""
    return face_finder(model, smallest, largest, on_tick)(image)


def face_in(box: Box, image: Tensor, on_tick: Callable[[], object] = lambda: None) -> Face | None:
    """The face in a box of a picture [3, H, W] in [0, 1], by the built-in detector; None where it sees none.

    Args:
        box: may be loose or tight.
        on_tick: called again and again; raise in it to stop.
    Raises:
        ValueError: the box is empty or lies outside.
    """
    [window] = face_windows([box], (image.shape[-2], image.shape[-1]), CONTEXT)
    assert window is not None
    side = max(box[2] - box[0], box[3] - box[1])
    middle = (box[0] + box[2]) / 2 - window.left, (box[1] + box[3]) / 2 - window.top

    def aside(face: Face) -> float:
        left, top, right, bottom = face.box
        return math.hypot((left + right) / 2 - middle[0], (top + bottom) / 2 - middle[1])

    found = find_faces(cut(image, window), smallest=SMALLEST * side, on_tick=on_tick)
    nearest = min(found, key=aside, default=None)
    return nearest.moved(window.left, window.top) if nearest and aside(nearest) < side / 2 else None


def largest_face(image: Tensor, model: Path | str | None = None) -> tuple[int, int, int, int] | None:
    """Box of the largest face in a picture [3, H, W] in [0, 1], in whole pixels; None where there is none.
    Raises what `find_faces` does."""
    faces = find_faces(image, model)
    return whole_pixels(max((face.box for face in faces), key=_area)) if faces else None


def whole_pixels(box: Box) -> tuple[int, int, int, int]:
    """The smallest box of whole pixels about a box."""
    left, top, right, bottom = box
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
