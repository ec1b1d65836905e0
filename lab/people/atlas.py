"""The atlas: a square map of the directions around the head, dense at the front of the face.

A unit direction d = (x, y, z), z to the front and y up, lies at the map position
(x, -y) g(z), g(z) = sqrt(2 / (1 + z)) a / (1 + 2 b (1 - z)): Lambert's azimuthal equal-area
projection pulled towards its centre. The map ends 144 degrees from the front; what lies behind
takes the value at the rim.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .fields import Field

_REACH = 1.9
_PULL = 0.2
_SCALE = (1.0 + _PULL * _REACH**2) / _REACH


def project(x: NDArray[Any], y: NDArray[Any], z: NDArray[Any], size: int) -> tuple[Field, Field, Field]:
    """Points (not only unit ones) to (column, row, radius): where in an atlas they are read."""
    radius = np.sqrt(x * x + y * y + z * z)
    inverse = np.float32(1.0) / radius
    front = z * inverse
    near = np.maximum(front + np.float32(1.0), np.float32(0.02))
    g = np.sqrt(np.float32(2.0) / near)
    g *= inverse
    g *= np.float32(_SCALE * size / 2)
    g /= np.float32(1.0 + 2.0 * _PULL) - np.float32(2.0 * _PULL) * front
    middle = np.float32((size - 1) / 2)
    return x * g + middle, middle - y * g, radius


def read(image: NDArray[Any], column: Field, row: Field) -> NDArray[Any]:
    """Bilinear samples of an atlas image [S,S] or [S,S,C] at [H,W] positions."""
    return cv2.remap(image, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True, eq=False)
class Atlas:
    """The map's grid: `direction` [3,S,S]; `across`, `down` [3,S,S] turn a radius into a normal.

    For a radius map R the surface normal is along
    direction - (dR/dcolumn across + dR/drow down) / R.
    `rho` and `turn` [S,S] are the polar distance (equal-area radius) and angle about the front.
    """

    size: int
    direction: NDArray[Any]
    across: NDArray[Any]
    down: NDArray[Any]
    rho: Field
    turn: Field

    @property
    def density(self) -> float:
        """Texels a unit of angle takes at the centre of the face."""
        return _SCALE * self.size / 2


@lru_cache(maxsize=4)
def atlas(size: int) -> Atlas:
    """The grid for a map of `size` x `size` texels (read-only arrays, so sharing them is safe)."""
    axis = (np.arange(size, dtype=np.float64) - (size - 1) / 2) / (size / 2)
    u, v = np.meshgrid(axis, -axis)
    r = np.hypot(u, v)
    # b r rho^2 - a rho + r = 0: the smaller root is the one that starts at rho = 0.
    inside = np.sqrt(np.maximum(_SCALE**2 - 4 * _PULL * r * r, 0.0))
    rho = np.minimum(2 * r / (_SCALE + inside), 1.98)
    z = 1.0 - rho**2 / 2
    s = rho * np.sqrt(np.maximum(1.0 - rho**2 / 4, 0.0))
    turn = np.arctan2(v, u)
    d = np.stack([s * np.cos(turn), s * np.sin(turn), z])
    du = np.gradient(d, axis=2)
    dv = np.gradient(d, axis=1)
    aa, bb, ab = (du * du).sum(0), (dv * dv).sum(0), (du * dv).sum(0)
    det = np.maximum(aa * bb - ab * ab, 1e-14)
    across = (bb * du - ab * dv) / det
    down = (aa * dv - ab * du) / det
    arrays = [np.ascontiguousarray(v, dtype=np.float32) for v in (d, across, down, rho, turn)]
    for array in arrays:
        array.setflags(write=False)
    return Atlas(size, *arrays)


def normals(grid: Atlas, radius: Field) -> NDArray[Any]:
    """Unit outward normals [3,S,S] of the star-shaped surface `radius` [S,S]."""
    kernel = np.array([[-0.5, 0.0, 0.5]], np.float32)
    gu = cv2.filter2D(radius, -1, kernel) / radius
    gv = cv2.filter2D(radius, -1, kernel.T.copy()) / radius
    out = np.empty_like(grid.direction)
    length = np.zeros_like(radius)
    for plane, d, across, down in zip(out, grid.direction, grid.across, grid.down, strict=True):
        np.multiply(gu, across, out=plane)
        plane += gv * down
        np.subtract(d, plane, out=plane)
        length += plane * plane
    np.sqrt(length, out=length)
    out /= length
    return out
