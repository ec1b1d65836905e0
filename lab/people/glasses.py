"""Glasses: frames drawn through the camera as projected lines."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .camera import Camera
from .fields import Field, spread
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
    ends: float,
) -> None:
    """Lay the person's glasses over the linear picture `image` [H,W,3], in place.

    `depth` [H,W] is the distance to the head along each pixel's ray (inf off the head), by which
    the temples disappear behind it; `light` scales the frame's colour; the temples run back to
    the depth `ends` in the head's frame.
    """
    size = image.shape[0]
    unit = camera.focal / camera.distance
    thick = max(1, round((0.024 if person.glasses_colour[0] < 0.2 else 0.016) * unit))

    def flat(points: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels [N,2] of head points [N,3] and which of them the head hides."""
        world = (points @ turn.T).astype(np.float32)
        pixels = camera.pixels(world)
        at = np.clip(pixels.astype(int), 0, size - 1)
        away = np.linalg.norm(world - np.array((0, 0, camera.distance)), axis=1)
        return pixels, depth[at[:, 1], at[:, 0]] < away - 0.03

    rims = _rims(person)
    spots = [flat(rim) for rim in rims]
    y, z = person.eye_height + 0.02, person.head_depth + 0.10
    inner = person.eye_spacing + 0.012 - min(0.215, person.eye_spacing - 0.053)
    bow = np.linspace(-inner, inner, 7)
    bridge = np.stack([bow, y + 0.025 * (1 - (bow / inner) ** 2), np.full(7, z)], -1)
    full = np.array((person.head_width + 0.05, 0.09, -0.10))
    lines = [(flat(bridge)[0], np.zeros(7, bool))]
    for rim, (pixels, hidden) in zip(rims, spots, strict=True):
        lines.append((pixels, hidden & np.roll(hidden, -1)))
        start = rim[4]
        end = full * (np.sign(start[0]), 1, 1)
        part = min(1.0, (start[2] - ends) / (start[2] - end[2]))
        lines.append(flat(np.linspace(start, start + part * (end - start), 24)))

    # Everything lies in a window about the lenses and the temples.
    cloud = np.concatenate([pixels for pixels, _ in lines])
    margin = 0.2 * unit + thick
    left, top = np.clip(cloud.min(0) - margin, 0, size - 1).astype(int)
    right, bottom = np.clip(cloud.max(0) + margin, (left + 1, top + 1), size).astype(int)
    ink, glass, glint = np.zeros((3, bottom - top, right - left), np.uint8)

    def fixed(pixels: NDArray[Any]) -> NDArray[np.int32]:
        return ((pixels - (left, top)) * 16 - 8).astype(np.int32)

    for pixels, hidden in lines:
        segments = [fixed(pixels[k : k + 2]) for k in range(len(pixels) - 1) if not hidden[k : k + 2].any()]
        cv2.polylines(ink, segments, False, 255, thick, cv2.LINE_AA, 4)
    for pixels, hidden in spots:
        cv2.fillPoly(glass, [fixed(pixels)], 255, cv2.LINE_AA, 4)
        if not hidden[6:17].any():
            cv2.polylines(glint, [fixed(pixels[6:17])], False, 255, max(1, thick // 3), cv2.LINE_AA, 4)
    alpha, lens, gleam = (plane.astype(np.float32) * np.float32(1 / 255) for plane in (ink, glass, glint))
    # The frame's shadow falls a little lower.
    down = np.array([[1, 0, 0], [0, 1, 0.05 * unit]], np.float32)
    shade = cv2.warpAffine(alpha, down, alpha.shape[::-1])
    shade = cv2.GaussianBlur(shade, (0, 0), 0.03 * unit + 0.5)
    window = image[top:bottom, left:right]
    window *= spread((1 - 0.40 * shade * (1 - alpha)) * (1 - 0.06 * lens))
    window += spread(np.float32(0.012 * light) * lens)
    colour = np.array(person.glasses_colour, np.float32) * np.float32(0.35 + 0.65 * light)
    window += spread(alpha) * (colour - window)
    window += spread(np.float32(0.35 * light) * gleam)
