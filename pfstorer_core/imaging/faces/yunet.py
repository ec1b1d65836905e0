"""YuNet of OpenCV's model zoo, where its file is given and OpenCV is installed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kornia.color import rgb_to_bgr
from torch import Tensor

from ..canvas import resize
from ..pictures import to_bytes
from .face import Face

LEAST_SCORE = 0.6
"""Under it there is no face."""
DETECTION_SIDE = 1280
"""Longest side of the picture that faces are looked for in: YuNet knows faces of 10 to 300 pixels."""


def yunet(model: Path | str) -> Callable[[Tensor], list[Face]]:
    """What finds faces in a picture [3, H, W] in [0, 1] by a file of YuNet's.

    Raises:
        ImportError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"Faces cannot be found with {Path(model).name}: OpenCV is not installed. "
            "pip install opencv-python, or choose the detector blazeface."
        ) from error

    def find(image: Tensor) -> list[Face]:
        height, width = image.shape[-2:]
        scale = min(1.0, DETECTION_SIDE / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        bgr = to_bytes(rgb_to_bgr(resize(image[None].detach().cpu().float(), size))[0])
        faces = [_face(row, scale, width, height) for row in _rows(cv2, bgr, model)]
        return [face for face in faces if face.box[0] < face.box[2] and face.box[1] < face.box[3]]

    return find


def _rows(cv2: Any, bgr: Any, model: Path | str) -> Any:
    """Box (left, top, width, height), five landmarks and score of each face."""
    try:
        detector = cv2.FaceDetectorYN.create(str(model), "", bgr.shape[1::-1], LEAST_SCORE)
        _, rows = detector.detect(bgr)
    except (cv2.error, AttributeError) as error:
        raise ValueError(
            f"OpenCV {cv2.__version__} cannot find faces with {Path(model).name}: choose YuNet's ONNX file, "
            "face_detection_yunet_2023mar.onnx of OpenCV's model zoo, or the detector blazeface."
        ) from error
    return [] if rows is None else rows


def _face(row: Any, scale: float, width: int, height: int) -> Face:
    left, top, wide, tall, *marks, score = (float(value) for value in row)
    right, bottom = (left + wide) / scale, (top + tall) / scale
    box = max(0.0, left / scale), max(0.0, top / scale), min(float(width), right), min(float(height), bottom)
    right_eye, left_eye, nose, *mouth = torch.tensor(marks).reshape(5, 2) / scale
    ear = torch.full((2,), math.nan)
    return Face(box, torch.stack([right_eye, left_eye, nose, torch.stack(mouth).mean(0), ear, ear]), score)
