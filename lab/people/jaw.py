"""Jaw: the lower face turns down and back about its hinge when the mouth opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .atlas import project, read
from .fields import Field, step
from .head import Head
from .person import Person
from .shot import Shot

# How far the jaw takes the lower lip down when the mouth is wide open.
_WIDEST = 0.17


@dataclass(frozen=True)
class Jaw:
    """A jaw opened by `gap` (half head heights), and the line between the lips where the skin parts.

    The line runs `wide` to either side of (`x`, `y`); its ends rise by 0.65 `rise`, and it tilts.
    """

    gap: float
    x: float
    y: float
    wide: float
    rise: float
    tilt: float

    @classmethod
    def of(cls, person: Person, shot: Shot) -> Jaw:
        """The jaw and lips of a person in a shot."""
        opened = max(0.0, shot.mouth_open)
        wide = person.mouth_width * (1 + 0.16 * shot.smile - 0.14 * opened)
        return cls(
            _WIDEST * opened, person.skew, person.mouth_height, wide, 0.055 * shot.smile, 0.6 * person.skew
        )

    def line(self, x: Field) -> Field:
        """Height at `x` of the line between the lips, above `y`."""
        t = np.clip((x - self.x) / self.wide, -1.2, 1.2)
        return self.rise * (t * t - 0.35) + self.tilt * t

    def move(self, x: Field, y: Field, z: Field) -> tuple[Field, Field]:
        """How far the closed head's surface over the skull's points moves up and to the front."""
        # The lips part along the line; the cheeks beside them stretch.
        half = 0.02 + 0.20 * step(0.4 * self.wide, 1.5 * self.wide, np.abs(x - self.x))
        turn = step(1.0, -1.0, (y - self.y - self.line(x)) / half)
        turn *= step(-0.05, 0.35, z) * np.float32(self.gap)
        return -(0.62 + 0.5 * z) * turn, 0.5 * (y + 0.1) * turn

    def carry(self, head: Head, radius: Field, at: NDArray[Any]) -> NDArray[Any]:
        """Map positions [K,2] of the closed head's surface `radius`, after the jaw has moved."""
        if not self.gap:
            return at
        dy, dz = self.move(*on_surface(head, head.skull, at).T)
        x, y, z = on_surface(head, radius, at).T
        column, row, _ = project(x, y + dy, z + dz, head.grid.size)
        return np.stack([column, row], -1)


def on_surface(head: Head, radius: Field, at: NDArray[Any]) -> NDArray[Any]:
    """Points [K,3] of the surface `radius` at map positions [K,2], in the head's frame."""
    column, row = (np.ascontiguousarray(at[:, k : k + 1], np.float32) for k in (0, 1))
    direction = np.concatenate([read(plane, column, row) for plane in head.grid.direction], 1)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction * read(radius, column, row)


def drop(jaw: Jaw, head: Head, maps: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """The closed head's maps [S,S], its radius first, with the jaw at `jaw`; the same if it is shut."""
    if not jaw.gap:
        return maps
    grid, radius = head.grid, maps[0]
    # Every texel asks where on the closed head its surface came from: a fixed point, found at half
    # resolution over the lower face alone.
    top = 2 * (int(head.column_row([(0.0, jaw.y + 0.30)])[0, 1]) // 2)
    coarse = (grid.size // 2, (grid.size - top) // 2)
    d = [cv2.resize(plane[top:], coarse, interpolation=cv2.INTER_AREA) for plane in grid.direction]
    small = cv2.resize(radius[top:], coarse, interpolation=cv2.INTER_AREA)
    bone = cv2.resize(head.skull[top:], coarse, interpolation=cv2.INTER_AREA)
    skin = [plane * small for plane in d]
    dy, dz = jaw.move(*(plane * bone for plane in d))
    column = row = ratio = small
    for _ in range(6):
        x, y, z = skin
        length = np.sqrt(x * x + (y + dy) ** 2 + (z + dz) ** 2)
        aim = (d[0] * length, d[1] * length - dy, d[2] * length - dz)
        x, y, z = (0.3 * old + 0.7 * new for old, new in zip(skin, aim, strict=True))
        column, row, off = project(x, y, z, grid.size)
        bone, small = read(head.skull, column, row) / off, read(radius, column, row) / off
        dy, dz = jaw.move(x * bone, y * bone, z * bone)
        skin = [x * small, y * small, z * small]
        ratio = np.sqrt(skin[0] ** 2 + (skin[1] + dy) ** 2 + (skin[2] + dz) ** 2) / (small * off)
    full = (grid.size, grid.size - top)
    column, row, ratio = (cv2.resize(v, full, interpolation=cv2.INTER_LINEAR) for v in (column, row, ratio))
    column, row = cv2.convertMaps(column, row, cv2.CV_16SC2)
    moved = [image.copy() for image in maps]
    for image, source in zip(moved, maps, strict=True):
        image[top:] = read(source, column, row)
    moved[0][top:] *= ratio
    return moved
