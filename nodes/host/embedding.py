"""Faces that adapters get, by which their person is found in pictures."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management as mm
from torch import Tensor

from ...pfstorer_core.imaging.faces import face_finder
from ...pfstorer_core.personalization.base import AdapterT
from ...pfstorer_core.personalization.face import PersonFace, face_of
from .folders import DLIB, recognizer_path
from .recognition import HostedRecognizer


def squares_embedded(
    squares: Sequence[Tensor], recognizer: HostedRecognizer | None = None
) -> PersonFace | None:
    """Of the person in pictures [3, H, W] in [0, 1], by dlib's recogniser or another; see `face_of`."""
    find = face_finder(on_tick=mm.throw_exception_if_processing_interrupted)
    hosted = (recognizer or HostedRecognizer.load(recognizer_path(DLIB))).loaded(len(squares))
    return face_of(hosted.recognizer, [square.cpu().clamp(0, 1) for square in squares], find)


def with_face(
    adapter: AdapterT, photos: Sequence[Tensor], recognizer: HostedRecognizer | None
) -> tuple[AdapterT, list[str]]:
    """An adapter that knows the face in photos, and what there is to say of it.

    Raises:
        ValueError: no face is found in any.
    """
    face = squares_embedded(photos, recognizer)
    if face is None:
        raise ValueError("No face was found in the photos, so that none can be embedded: connect others.")
    told = f"Choose Identity finds the person by an embedding of {face.photos} of {len(photos)} photos."
    return adapter.with_face(face), [told]
