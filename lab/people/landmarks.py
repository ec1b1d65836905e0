"""Landmarks: where the named points and the marks of a face lie in a photo, and whether they show."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atlas import read
from .camera import Camera
from .face import Face
from .fields import Field
from .head import JAW_HEIGHT, NOSE_TOP, Head
from .jaw import on_surface
from .person import Person

# "left" and "right" are the picture's.
LANDMARKS: tuple[str, ...] = (
    "left_eye_outer", "left_eye_inner", "left_pupil",
    "right_eye_inner", "right_eye_outer", "right_pupil",
    "left_brow", "right_brow", "nose_bridge", "nose_tip", "nose_base",
    "left_mouth", "right_mouth", "upper_lip", "lower_lip",
    "left_jaw", "right_jaw", "chin",
)  # fmt: skip

# How much nearer than a point the head may be met before it hides the point (half head heights).
_SLACK = 0.05


def places(head: Head, person: Person, face: Face) -> NDArray[Any]:
    """Map positions [K+M,2] of the LANDMARKS, then of the person's moles and its scar's middle."""
    tip = NOSE_TOP - person.nose_length - 0.03
    fixed = {
        "nose_bridge": (person.skew, NOSE_TOP),
        "nose_tip": (person.skew, tip + 0.01),
        "nose_base": (person.skew, tip - 0.14),
        "left_jaw": (-head.jaw, JAW_HEIGHT),
        "right_jaw": (head.jaw, JAW_HEIGHT),
        "chin": (0.0, -0.93 * person.chin_length),
    }
    points = fixed | face.points
    spots = [points[name] for name in LANDMARKS] + [(x, y) for x, y, _ in person.moles]
    if person.scar:
        spots.append(person.scar[len(person.scar) // 2])
    return face.jaw.carry(head, face.closed, head.column_row(spots))


def pixels_of(
    head: Head, face: Face, at: NDArray[Any], cover: Field, turn: NDArray[Any], camera: Camera, depth: Field
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Pixels [K,2] of the map positions `at` [K,2] and whether each is in sight.

    `cover` [S,S] is the hair's, `depth` [H,W] the travel to the head along each pixel's ray (inf
    off it). A point is out of sight off the frame, behind a part of the head, or under hair.
    """
    size = depth.shape[0]
    points = on_surface(head, face.radius, at) @ turn.T
    pixels = camera.pixels(points)
    near = np.clip(pixels.astype(int), 0, size - 1)
    away = np.linalg.norm(points - np.array((0, 0, camera.distance), np.float32), axis=1)
    met = depth[near[:, 1], near[:, 0]]
    # Where the ray misses the head by a hair's breadth the point lies on the silhouette, in sight.
    seen = met > away - _SLACK
    seen &= ((pixels >= 0) & (pixels < size)).all(1)
    column, row = (np.ascontiguousarray(at[:, k : k + 1], np.float32) for k in (0, 1))
    seen &= read(cover, column, row)[:, 0] < 0.5
    return pixels, seen
