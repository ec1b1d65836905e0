"""Scalar fields: the smooth masks and the noise that every painter of this package mixes."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# float32 in practice; the stubs of numpy and OpenCV widen most results, so the alias is open.
Field = NDArray[Any]


def step(low: float | Field, high: float | Field, value: Field) -> Field:
    """Hermite step of `value`: 0 below `low`, 1 above `high` (reversed where low > high)."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return (t * t * (3.0 - 2.0 * t)).astype(np.float32)


def blob(x: Field, y: Field, cx: float, cy: float, sx: float, sy: float, angle: float = 0.0) -> Field:
    """Anisotropic Gaussian of height 1 at (cx, cy), standard deviations (sx, sy), tilt in rad."""
    dx, dy = x - cx, y - cy
    if angle:
        c, s = float(np.cos(angle)), float(np.sin(angle))
        dx, dy = c * dx + s * dy, c * dy - s * dx
    return np.exp(-0.5 * ((dx / sx) ** 2 + (dy / sy) ** 2)).astype(np.float32)


def stroke(x: Field, y: Field, points: list[tuple[float, float]], width: float) -> Field:
    """Gaussian ridge of height 1 along the polyline `points`; `width` is its deviation."""
    best = np.full(x.shape, np.inf, np.float32)
    for (ax, ay), (bx, by) in itertools.pairwise(points):
        ux, uy = bx - ax, by - ay
        along = np.clip(((x - ax) * ux + (y - ay) * uy) / (ux * ux + uy * uy + 1e-12), 0, 1)
        gap = (x - ax - along * ux) ** 2 + (y - ay - along * uy) ** 2
        best = np.minimum(best, gap)
    return np.exp(-0.5 * best / width**2).astype(np.float32)


def noise(rng: np.random.Generator, height: int, width: int, cell: float | tuple[float, float]) -> Field:
    """Smooth value noise [height, width], about unit variance, `cell` pixels (rows, columns)."""
    rows, cols = (cell, cell) if isinstance(cell, (int, float)) else cell
    grid = rng.standard_normal(
        (int(np.ceil(height / rows)) + 3, int(np.ceil(width / cols)) + 3), dtype=np.float32
    )
    if rows <= 1.0 and cols <= 1.0:
        return grid[:height, :width]
    full = cv2.resize(
        grid,
        (int(np.ceil(grid.shape[1] * cols)), int(np.ceil(grid.shape[0] * rows))),
        interpolation=cv2.INTER_CUBIC,
    )
    top, left = int(rows), int(cols)
    return full[top : top + height, left : left + width].astype(np.float32)


def fractal(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int, gain: float = 0.55
) -> Field:
    """Sum of `octaves` noises whose cells halve and whose amplitudes shrink by `gain`."""
    total = np.zeros((height, width), np.float32)
    amplitude = 1.0
    for _ in range(octaves):
        total += amplitude * noise(rng, height, width, cell)
        amplitude *= gain
        cell = max(cell / 2.0, 1.0)
    return total


def mix(base: NDArray[Any], over: object, alpha: Field) -> NDArray[Any]:
    """`base` [H,W,3] with the colour `over` (3 numbers or [H,W,3]) laid on by `alpha` [H,W]."""
    weight = alpha[..., None]
    return base + weight * (np.asarray(over, np.float32) - base)
