"""Faces in a larger picture: where they are, cut out with what is around them, and put back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .canvas import resize

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

LEAST_SCORE = 0.6
"""Of YuNet's: under it there is no face."""
DETECTION_SIDE = 1280
"""Longest side of the picture that faces are looked for in: YuNet knows faces of 10 to 300 pixels."""
CASCADE = "haarcascade_frontalface_default.xml"


@dataclass(frozen=True)
class Window:
    """A part of a picture, in whole pixels.

    Attributes:
        size: height and width of the picture that it was cut from.
    """

    left: int
    top: int
    right: int
    bottom: int
    size: tuple[int, int]

    def scaled(self, size: tuple[int, int]) -> Window:
        """The same part of the picture at another size."""
        tall, wide = size[0] / self.size[0], size[1] / self.size[1]
        left, right = round(self.left * wide), round(self.right * wide)
        top, bottom = round(self.top * tall), round(self.bottom * tall)
        return Window(left, top, max(right, left + 1), max(bottom, top + 1), size)


def find_faces(image: Tensor, model: Path | str | None = None) -> list[Box]:
    """Boxes of the faces in a picture [3, H, W] in [0, 1], from left to right.

    Args:
        model: YuNet's ONNX file (OpenCV's model zoo); None takes the cascade that OpenCV 4 brings along.
    Raises:
        ImportError: OpenCV is not installed.
        ValueError: OpenCV cannot read the model, or brings no cascade.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError("Finding faces needs OpenCV: pip install opencv-python-headless") from error
    height, width = image.shape[-2:]
    scale = min(1.0, DETECTION_SIDE / max(height, width))
    small = resize(image[None].detach().cpu().float(), (round(height * scale), round(width * scale)))[0]
    bgr = (small.clamp(0, 1).flip(0).permute(1, 2, 0) * 255).round().byte().numpy()
    found = _by_yunet(cv2, bgr, model) if model is not None else _by_cascade(cv2, bgr)
    corners = [[v / scale for v in (x, y, x + w, y + h)] for x, y, w, h in found]
    boxes = [
        (max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom))
        for left, top, right, bottom in corners
    ]
    return sorted(box for box in boxes if box[0] < box[2] and box[1] < box[3])


def largest_face(image: Tensor, model: Path | str | None = None) -> tuple[int, int, int, int] | None:
    """Box of the largest face in a picture [3, H, W] in [0, 1], in whole pixels; None where there is none.

    Raises what `find_faces` does; but without a model, where OpenCV has nothing of its own, there is no box.
    """
    try:
        boxes = find_faces(image, model)
    except (ImportError, ValueError):
        if model is not None:
            raise
        return None
    if not boxes:
        return None
    left, top, right, bottom = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return int(left), int(top), math.ceil(right), math.ceil(bottom)


def _by_yunet(cv2: Any, bgr: Any, model: Path | str) -> list[tuple[float, float, float, float]]:
    try:
        detector = cv2.FaceDetectorYN.create(str(model), "", bgr.shape[1::-1], LEAST_SCORE)
        _, rows = detector.detect(bgr)
    except (cv2.error, AttributeError) as error:
        raise ValueError(
            f"OpenCV {cv2.__version__} cannot find faces with {Path(model).name}: choose YuNet's ONNX file, "
            "face_detection_yunet_2023mar.onnx of OpenCV's model zoo."
        ) from error
    return _rectangles([] if rows is None else rows)


def _by_cascade(cv2: Any, bgr: Any) -> list[tuple[float, float, float, float]]:
    path = Path(cv2.data.haarcascades) / CASCADE
    if not path.exists():
        raise ValueError(
            f"OpenCV {cv2.__version__} brings no face detector along: put face_detection_yunet_2023mar.onnx "
            "of OpenCV's model zoo into models/face_detection and choose it, or give masks or boxes."
        )
    gray = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    return _rectangles(cv2.CascadeClassifier(str(path)).detectMultiScale(gray, 1.1, 5))


def _rectangles(rows: Any) -> list[tuple[float, float, float, float]]:
    """Left, top, width and height, with which the rows begin."""
    return [(float(x), float(y), float(w), float(h)) for x, y, w, h, *_ in rows]


def box_of_mask(mask: Tensor) -> tuple[int, int, int, int] | None:
    """About what a mask [H, W] shows; None where that is nothing."""
    rows, columns = (mask > 0.5).nonzero().unbind(1)
    if not len(rows):
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def masks_of_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """A mask [N, H, W] of each box."""
    masks = torch.zeros(len(boxes), *size)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[round(top) : round(bottom), round(left) : round(right)] = 1
    return masks


def face_window(box: Box, size: tuple[int, int], context: float = 0.6) -> Window:
    """A square about a face, as far as the picture of that size (height, width) allows.

    Args:
        context: what is added to the longer side of the box, as a part of it.
    Raises:
        ValueError: the box is empty or lies outside.
    """
    left, top, right, bottom = box
    height, width = size
    if not (left < right and top < bottom and left < width and top < height and right > 0 and bottom > 0):
        raise ValueError(f"The face {box} does not lie in the picture of {width} x {height} pixels.")
    side = max(right - left, bottom - top) * (1 + context)
    wide, tall = (max(1, min(round(side), limit)) for limit in (width, height))
    x = min(max(0, round((left + right - wide) / 2)), width - wide)
    y = min(max(0, round((top + bottom - tall) / 2)), height - tall)
    return Window(x, y, x + wide, y + tall, size)


def cut(images: Tensor, window: Window) -> Tensor:
    """The part [B, 3, h, w] of pictures [B, 3, H, W]."""
    return images[..., window.top : window.bottom, window.left : window.right]


def paste(images: Tensor, parts: Tensor, window: Window, feather: float = 0.1) -> Tensor:
    """Put parts back into pictures; what lies outside of the window stays as it is, bit for bit.

    Args:
        images: [B, 3, H, W], of the window's size or larger ones of the same picture.
        parts: [B, 3, h, w] of any size.
        feather: width of the soft border as a part of the window, 0…0.5; none where the picture ends.
    """
    height, width = images.shape[-2:]
    window = window.scaled((height, width))
    tall, wide = window.bottom - window.top, window.right - window.left
    parts = resize(parts.to(images), (tall, wide)).clamp(0, 1)
    soft = feather * max(tall, wide)
    down = _ramp(tall, soft, window.top > 0, window.bottom < height)
    across = _ramp(wide, soft, window.left > 0, window.right < width)
    weight = (down[:, None] * across[None]).to(images)
    result = images.clone()
    result[..., window.top : window.bottom, window.left : window.right] = torch.lerp(
        cut(images, window), parts, weight.expand_as(parts)
    )
    return result


def _ramp(length: int, soft: float, starts: bool, ends: bool) -> Tensor:
    """Weights along an axis: rising from 0 where the picture goes on."""
    if soft < 1:
        return torch.ones(length)
    place = torch.arange(length) + 0.5
    rising = (place / soft).clamp(max=1) if starts else torch.ones(length)
    falling = ((length - place) / soft).clamp(max=1) if ends else torch.ones(length)
    # A smooth step: a straight one would show where it begins.
    weight = torch.minimum(rising, falling)
    return weight * weight * (3 - 2 * weight)
