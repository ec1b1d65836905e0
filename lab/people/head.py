"""Head: a person's surface maps that no photo changes: shape, skin colour, pores, gloss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atlas import Atlas, atlas
from .fields import Field, blob, noise, ridge, step, stroke
from .person import Person
from .skin import paint_skin
from .strands import strand_sheet

NOSE_TOP = 0.10
JAW_HEIGHT = -0.60


@dataclass(frozen=True, eq=False)
class Head:
    """Maps [S,S] over an atlas: `radius`, `bump` (fine relief), `gloss`; `albedo` [3,S,S] linear.

    `front` [2,S,S] are x and y, and `z` the rest, of the smooth skull's points, `skull` their
    radius: faces are painted in these coordinates. `far` is every eighth `front`, that of the back
    moved out of reach. `ear` is how far the ears stand out, `strands` a `strands.strand_sheet`,
    `wave` noise, `jaw` how far to the side the jaw's angle lies at JAW_HEIGHT.
    """

    grid: Atlas
    front: NDArray[Any]
    z: Field
    skull: Field
    radius: Field
    bump: Field
    gloss: Field
    albedo: NDArray[Any]
    ear: Field
    strands: Field
    wave: Field
    far: NDArray[Any]
    jaw: float

    @property
    def x(self) -> Field:
        """The skull's points, to the right of the picture."""
        return self.front[0]

    @property
    def y(self) -> Field:
        """The skull's points, upwards."""
        return self.front[1]

    def _near(self, x: float, y: float) -> tuple[int, int]:
        """Column and row of the nearest of every eighth texel to the front point (x, y)."""
        px, py = self.far
        row, column = divmod(int(np.argmin((px - x) ** 2 + (py - y) ** 2)), px.shape[1])
        return 8 * column, 8 * row

    def column_row(self, points: Sequence[tuple[float, float]]) -> NDArray[Any]:
        """Map positions [K,2] (column, row) of the front points (x, y) of the skull."""
        want = np.array(points, np.float64).T
        at = np.array([self._near(x, y) for x, y in points], np.float64).T
        last = self.grid.size - 2
        for _ in range(4):
            # Newton's method on the bilinear map.
            j, i = np.clip(at.astype(int), 0, last)
            b, a = at - (j, i)
            corners = self.front[:, [i, i, i + 1, i + 1], [j, j + 1, j, j + 1]].astype(np.float64)
            p00, p01, p10, p11 = corners.transpose(1, 0, 2)
            along, down = (p01 - p00) * (1 - a) + (p11 - p10) * a, (p10 - p00) * (1 - b) + (p11 - p01) * b
            miss = want - (p00 + (p01 - p00) * b + down * a)
            turn = along[0] * down[1] - along[1] * down[0]
            move = (miss[0] * down[1] - miss[1] * down[0], along[0] * miss[1] - along[1] * miss[0])
            at = np.clip(at + np.clip(np.stack(move) / turn, -8, 8), 0, last + 1)
        return at.T.astype(np.float32)

    def window(self, x: float, y: float, wide: float, down: float, up: float) -> tuple[slice, slice]:
        """Rows and columns of the map around the front point (x, y): `wide` to each side."""
        column, row = self._near(x, y)
        # Texels are denser, in x and y, where the head turns away; more so at the window's far end.
        step_x = float(self.front[0, row, column + 1] - self.front[0, row, column - 1])
        step_y = float(self.front[1, row - 1, column] - self.front[1, row + 1, column])
        spare = 0.04 * self.grid.density
        reach_x, reach_y = 2 * 1.3 / step_x, 2 * 1.3 / step_y
        top, left = row - reach_y * up - spare, column - reach_x * wide - spare
        bottom, right = row + reach_y * down + spare, column + reach_x * wide + spare
        low = [max(0, int(v)) for v in (top, left)]
        high = [min(self.grid.size, int(v) + 1) for v in (bottom, right)]
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
    lean, turn = float(np.cos(0.2)), float(np.sin(0.2))
    ey, ez = y + 0.07, z + 0.10
    ey, ez = ey * lean - ez * turn, ez * lean + ey * turn
    ey = ey / (0.25 * size)
    # Wide at the top, a lobe below.
    ez = ez / (0.135 * size * (1 + 0.28 * np.clip(ey, -1, 1)))
    edge = np.sqrt(ey * ey + ez * ez)
    side = step(0.35, 0.45, np.abs(x))
    # Flat against the cheek in front, standing off behind.
    plate = step(1.22, 0.72, edge)
    flare = 0.03 + (0.07 * person.ear_flare) * step(0.9, -0.9, ez)
    rim = 0.030 * ridge(edge - 0.84, 0.11) * step(0.9, 0.0, ez)
    fold = 0.020 * ridge(edge - 0.50, 0.10) * step(0.35, -0.25, ez) * step(-0.6, 0.0, ey)
    tragus = 0.020 * blob(ez, ey, 0.62, -0.1, 0.16, 0.16)
    hollow = blob(ez, ey, 0.15, -0.10, 0.33, 0.36)
    groove = ridge(edge - 0.67, 0.06) * step(0.5, -0.3, ez) * step(-0.7, -0.2, ey)
    lift = side * plate * (flare + rim + fold + tragus - 0.055 * hollow)
    return lift, side * plate * np.maximum(hollow, 0.7 * groove)


def _nose(person: Person, x: Field, y: Field) -> tuple[Field, Field]:
    """Height of the nose and the darkness of its nostrils."""
    tip_y = NOSE_TOP - person.nose_length - 0.03
    wing = person.nose_width
    x = x - np.float32(person.skew)
    along = np.clip((NOSE_TOP - y) / (NOSE_TOP - tip_y), -1, 2)
    run = np.clip(along, 0, 1)
    profile = person.nose_bridge * step(-0.45, 0.35, along)
    profile += (person.nose_tip - person.nose_bridge) * run**1.6
    profile += person.nose_hump * ridge(along - 0.42, 0.16)
    # The base is arched: lowest between the nostrils, higher at the wings.
    base = y - 1.6 * x * x
    profile *= step(tip_y - 0.12, tip_y + 0.005, base)
    width = 0.058 + (0.20 * wing) * run * run
    lift = profile * np.exp(-0.5 * (x / width) ** 2)
    lift += 0.035 * blob(x, y, 0, tip_y + 0.015, 0.06, 0.05)
    across = np.abs(x)
    lift += 0.080 * blob(across, y, wing * 0.72, tip_y - 0.025, 0.042, 0.042)
    lift -= 0.022 * blob(across, y, wing * 1.22, tip_y - 0.01, 0.024, 0.06, 0.4)
    hole = blob(across, y, wing * 0.46, tip_y - 0.072, 0.028, 0.014, -0.35)
    return lift, step(0.30, 0.85, hole)


@lru_cache(maxsize=8)  # the photos of one person come in a row
def build_head(person: Person, texels: int) -> Head:
    """Shape and skin of `person` at `texels` x `texels`."""
    grid = atlas(texels)
    skull = _skull(person, grid)
    points = grid.direction * skull
    x, y, z = points
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
    nose, holes, ear, hollow = (np.zeros_like(x) for _ in range(4))
    middle = np.s_[texels // 5 : -texels // 5, texels // 4 : -texels // 4]
    nose[middle], holes[middle] = _nose(person, x[middle], y[middle])
    for side in (np.s_[:, : texels // 3], np.s_[:, -texels // 3 :]):
        ear[side], hollow[side] = _ear(person, x[side], y[side], z[side])
    radius = skull + front * (shape + nose - 0.012 * holes) + ear
    paint = paint_skin(person, grid, x, y, z)
    dark = (1 - 0.55 * hollow) * (1 - 0.88 * holes * front)
    paint.albedo[...] *= dark
    far = points[:2, ::8, ::8] + np.float32(9) * (z[::8, ::8] <= 0)
    wave = noise(np.random.default_rng((person.seed, 41)), texels, texels, 0.22 * grid.density)
    return Head(
        grid, points[:2], z, skull, radius.astype(np.float32), paint.bump, paint.gloss * (1 - holes * front),
        paint.albedo, ear, strand_sheet(person), wave, far,
        0.94 * float((x * (np.abs(y - JAW_HEIGHT) < 0.02)).max()),
    )  # fmt: skip
