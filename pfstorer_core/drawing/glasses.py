"""Glasses: frames drawn through the camera as projected lines."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .camera import Camera
from .fields import Field
from .person import Person

Image = NDArray[Any]

_POWER = {"round": 2.0, "oval": 2.4, "square": 4.5}


def _rims(person: Person) -> list[NDArray[Any]]:
    """Lens outlines of the left and right eye, [N,3] in the head's frame."""
    power = _POWER[person.glasses]
    tall = {"round": 0.19, "oval": 0.145, "square": 0.155}[person.glasses]
    a = np.linspace(0, 2 * np.pi, 49)
    cx, cy = person.eye_spacing + 0.012, person.eye_height - 0.025
    wide = min(0.215, cx - 0.065)
    ca, sa = np.cos(a), np.sin(a)
    reach = (np.abs(ca) ** power + np.abs(sa) ** power) ** (-1 / power)
    x, y = wide * reach * ca, tall * reach * sa
    z = person.head_depth + 0.10 - 0.35 * (x + cx - 0.1) ** 2
    return [np.stack([side * (cx + x), cy + y, z], -1) for side in (-1, 1)]


def draw_glasses(
    image: Image,
    person: Person,
    camera: Camera,
    turn: NDArray[Any],
    depth: Field,
    light: float,
) -> None:
    """Lay the person's glasses over the linear picture `image` [H,W,3], in place.

    `depth` [H,W] is the distance to the head along each pixel's ray (inf off the head), by which
    the temples disappear behind it; `light` scales the frame's colour.
    """
    size = image.shape[0]
    unit = camera.focal / camera.distance
    thick = max(1, round((0.024 if person.glasses_colour[0] < 0.2 else 0.014) * unit))

    def flat(points: NDArray[Any]) -> NDArray[np.int32]:
        world = (points @ turn.T).astype(np.float32)
        return (camera.pixels(world) * 16 - 8).astype(np.int32)

    def hidden(points: NDArray[Any]) -> NDArray[np.bool_]:
        world = (points @ turn.T).astype(np.float32)
        at = np.clip(camera.pixels(world).astype(int), 0, size - 1)
        away = np.linalg.norm(world - np.array((0, 0, camera.distance)), axis=1)
        return depth[at[:, 1], at[:, 0]] < away - 0.03

    ink = np.zeros((size, size), np.uint8)
    glass = np.zeros((size, size), np.uint8)
    glint = np.zeros((size, size), np.uint8)
    rims = _rims(person)
    for rim in rims:
        cv2.fillPoly(glass, [flat(rim)], 255, cv2.LINE_AA, 4)
        keep = ~hidden(rim)
        for k in range(len(rim) - 1):
            if keep[k] or keep[k + 1]:
                cv2.polylines(ink, [flat(rim[k : k + 2])], False, 255, thick, cv2.LINE_AA, 4)
                if 6 < k < 16:
                    cv2.polylines(
                        glint,
                        [flat(rim[k : k + 2])],
                        False,
                        255,
                        max(1, thick // 3),
                        cv2.LINE_AA,
                        4,
                    )
    y, z = person.eye_height + 0.02, person.head_depth + 0.10
    inner = person.eye_spacing + 0.012 - min(0.215, person.eye_spacing - 0.053)
    bridge = [(x, y + 0.025 * (1 - (x / inner) ** 2), z) for x in np.linspace(-inner, inner, 7)]
    cv2.polylines(ink, [flat(np.array(bridge))], False, 255, thick, cv2.LINE_AA, 4)
    for side in (-1, 1):
        start = rims[0 if side < 0 else 1][4]
        path = np.linspace(start, (side * (person.head_width + 0.05), 0.09, -0.10), 24)
        keep = ~hidden(path)
        for k in range(len(path) - 1):
            if keep[k] and keep[k + 1]:
                cv2.polylines(ink, [flat(path[k : k + 2])], False, 255, thick, cv2.LINE_AA, 4)
    alpha = ink.astype(np.float32)[..., None] / 255
    lens = glass.astype(np.float32)[..., None] / 255
    shade = cv2.GaussianBlur(ink, (0, 0), 0.05 * unit + 0.5).astype(np.float32)[..., None] / 255
    down = np.array([[1, 0, 0], [0, 1, 0.05 * unit]], np.float32)
    shade = cv2.warpAffine(shade, down, (size, size))[..., None]
    image *= 1 - 0.45 * shade * (1 - alpha)
    image *= 1 - 0.06 * lens
    image += 0.012 * light * lens
    colour = np.array(person.glasses_colour, np.float32) * (0.35 + 0.65 * light)
    image += alpha * (colour - image)
    image += (0.35 * light) * (glint.astype(np.float32)[..., None] / 255)
