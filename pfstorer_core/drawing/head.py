"""Head: a person's surface maps that no photo changes: shape, skin colour, pores, gloss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atlas import Atlas, atlas
from .fields import Field, blob, noise, step, stroke
from .person import Person
from .skin import paint_skin
from .strands import strand_sheet

NOSE_TOP = 0.10


@dataclass(frozen=True, eq=False)
class Head:
    """Maps [S,S] over an atlas: `radius`, `bump` (fine relief), `gloss`; `albedo` [S,S,3] linear.

    `ear` [S,S] is how far the ears stand out; `strands` is `hair.strand_sheet`, `wave` [S,S] noise.
    `x`, `y`, `z` [S,S] are the smooth skull's points, the coordinates in which faces are painted.
    """

    grid: Atlas
    x: Field
    y: Field
    z: Field
    radius: Field
    bump: Field
    gloss: Field
    albedo: NDArray[Any]
    ear: Field
    strands: Field
    wave: Field

    def column_row(self, x: float, y: float) -> tuple[int, int]:
        """Map position (column, row) of the front point that the skull shows at (x, y)."""
        jump, column, row = 8, 0, 0
        front, top, left = np.s_[::jump, ::jump], 0, 0
        for _ in range(2):
            # A coarse search over the map, then a full one around what it found.
            far = (self.x[front] - x) ** 2 + (self.y[front] - y) ** 2
            far = np.where(self.z[front] > 0, far, np.inf)
            row, column = np.unravel_index(int(np.argmin(far)), far.shape)
            row, column = top + int(row) * jump, left + int(column) * jump
            top, left = max(0, row - jump), max(0, column - jump)
            front, jump = np.s_[top : row + jump + 1, left : column + jump + 1], 1
        return column, row

    def window(self, x: float, y: float, half: float) -> tuple[slice, slice]:
        """Rows and columns of the map around the front point (x, y), `half` wide each way."""
        column, row = self.column_row(x, y)
        reach = 1.35 * half * self.grid.density
        low = [max(0, int(v - reach)) for v in (row, column)]
        high = [min(self.grid.size, int(v + reach) + 1) for v in (row, column)]
        return slice(low[0], high[0]), slice(low[1], high[1])


def _skull(person: Person, grid: Atlas) -> Field:
    dx, dy, dz = grid.direction
    below = step(0.1, -0.75, dy)
    width = person.head_width * (1 - person.jaw_taper * below * step(-0.7, 0.5, dz))
    height = np.where(dy > 0, 1.0, person.chin_length)
    depth = person.head_depth * np.where(dz > 0, 1.0, 1.08)
    power = 2.1 + (person.jaw_square - 2.0) * below * step(-0.4, 0.5, dz)
    total = np.abs(dx / width) ** power + np.abs(dy / height) ** power + np.abs(dz / depth) ** power
    radius = total ** (-1 / power)
    # The skull's underside behind the jaw gives way to the neck.
    radius *= 1 - 0.12 * step(-0.35, -0.9, dy) * step(0.35, -0.5, dz)
    return radius.astype(np.float32)


def _ear(person: Person, x: Field, y: Field, z: Field) -> tuple[Field, Field]:
    """Height of both ears and the darkness of their hollows."""
    size = person.ear_size
    tilt = 0.2
    ey, ez = y + 0.06, z + 0.10
    ey, ez = ey * np.cos(tilt) - ez * np.sin(tilt), ez * np.cos(tilt) + ey * np.sin(tilt)
    ez = ez / (0.135 * size * (1 + 0.25 * np.clip(ey / 0.25, -1, 1)))
    ey = ey / (0.255 * size)
    edge = np.hypot(ey, ez)
    side = step(0.35, 0.45, np.abs(x))
    flare = (0.12 * person.ear_flare) * (1 - 0.75 * step(-0.2, 1.0, ez))
    plate = step(1.08, 0.86, edge)
    rim = 0.022 * np.exp(-0.5 * ((edge - 0.86) / 0.10) ** 2) * step(0.9, -0.2, ez)
    inner = 0.014 * np.exp(-0.5 * ((edge - 0.5) / 0.09) ** 2) * step(0.3, -0.3, ez)
    hollow = np.exp(-0.5 * (((ez - 0.15) / 0.33) ** 2 + ((ey + 0.12) / 0.36) ** 2))
    lift = side * plate * (flare + rim + inner - 0.055 * hollow)
    return lift.astype(np.float32), (side * plate * hollow).astype(np.float32)


def _nose(person: Person, x: Field, y: Field) -> tuple[Field, Field]:
    """Height of the nose and the darkness of its nostrils."""
    tip_y = NOSE_TOP - person.nose_length - 0.03
    wing = person.nose_width
    along = np.clip((NOSE_TOP - y) / (NOSE_TOP - tip_y), -1, 2)
    profile = person.nose_bridge * step(-0.35, 0.35, along)
    profile += (person.nose_tip - person.nose_bridge) * np.clip(along, 0, 1) ** 1.6
    profile += person.nose_hump * np.exp(-0.5 * ((along - 0.42) / 0.16) ** 2)
    profile *= step(tip_y - 0.115, tip_y - 0.005, y)
    spread = 0.045 + (0.26 * wing) * np.clip(along, 0, 1) ** 3
    lift = profile * np.exp(-0.5 * np.abs((x - person.skew) / spread) ** 2.4)
    lift += 0.035 * blob(x, y, person.skew, tip_y + 0.01, 0.055, 0.05)
    for side in (-1, 1):
        lift += 0.075 * blob(x, y, side * wing * 0.80, tip_y - 0.02, 0.038, 0.040)
        lift -= 0.02 * blob(x, y, side * wing * 1.32, tip_y - 0.02, 0.022, 0.05, side * 0.4)
    holes = np.zeros_like(x)
    for side in (-1, 1):
        hole = blob(x, y, side * wing * 0.50, tip_y - 0.078, 0.026, 0.013, -side * 0.35)
        holes = np.maximum(holes, step(0.35, 0.8, hole))
    return lift.astype(np.float32), holes


@lru_cache(maxsize=8)  # the photos of one person come in a row
def build_head(person: Person, texels: int) -> Head:
    """Shape and skin of `person` at `texels` x `texels`."""
    grid = atlas(texels)
    skull = _skull(person, grid)
    x, y, z = (np.ascontiguousarray(plane * skull) for plane in grid.direction)
    front = step(0.0, 0.25, z)
    shape = person.brow_ridge * (blob(np.abs(x), y, 0.27, person.eye_height + 0.15, 0.16, 0.05, 0.15))
    shape += person.forehead * blob(x, y, 0, 0.45, 0.35, 0.2)
    shape += person.cheekbone * blob(np.abs(x), y, 0.45, -0.18, 0.14, 0.11, 0.4)
    shape += person.cheek_full * blob(np.abs(x), y, 0.40, -0.50, 0.15, 0.18)
    shape += person.chin_forward * blob(x, y, 0, -0.86 * person.chin_length, 0.15, 0.10)
    shape -= 0.028 * blob(x, y, 0, -0.735 * person.chin_length, 0.16, 0.035)
    shape -= person.eye_depth * blob(np.abs(x), y, person.eye_spacing - 0.03, person.eye_height, 0.13, 0.085)
    shape -= 0.03 * blob(np.abs(x), y, 0.68, 0.28, 0.1, 0.16)
    shape += 0.035 * blob(x, y, 0, person.mouth_height, 0.22, 0.13)
    groove = stroke(x, y, [(0.0, -0.43), (0.0, person.mouth_height + 0.07)], 0.022)
    shape -= 0.016 * groove
    shape += 0.01 * person.skew / 0.012 * blob(x, y, 0.4, -0.6, 0.2, 0.2)
    nose, holes = _nose(person, x, y)
    ear, hollow = _ear(person, x, y, z)
    radius = skull + front * (shape + nose - 0.012 * holes) + ear
    paint = paint_skin(person, grid, x, y, z)
    dark = 1 - 0.5 * hollow
    dark *= 1 - 0.90 * holes * front
    albedo = paint.albedo * dark[..., None]
    gloss = paint.gloss * (1 - holes * front)
    return Head(
        grid, x, y, z, radius.astype(np.float32), paint.bump, gloss, albedo, ear,
        strand_sheet(person), noise(np.random.default_rng((person.seed, 41)), texels, texels,
        0.22 * grid.density),
    )  # fmt: skip
