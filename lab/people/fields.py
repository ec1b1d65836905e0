"""Scalar fields: the smooth masks and the noise that every painter of this package mixes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# float32 in practice; the stubs of numpy and OpenCV widen most results, so the alias is open.
Field = NDArray[Any]


def step(low: float | Field, high: float | Field, value: Field) -> Field:
    """Hermite step of `value`: 0 below `low`, 1 above `high` (reversed where low > high)."""
    # In place, here and below: allocating is most of what a small field costs.
    t = np.asarray(value - low, dtype=np.float32)
    t /= high - low
    np.clip(t, 0.0, 1.0, out=t)
    rest = np.float32(-2.0) * t
    rest += np.float32(3.0)
    rest *= t
    rest *= t
    return rest


def blob(x: Field, y: Field, cx: float, cy: float, sx: float, sy: float, angle: float = 0.0) -> Field:
    """Anisotropic Gaussian of height 1 at (cx, cy), standard deviations (sx, sy), tilt in rad."""
    dx, dy = x - np.float32(cx), y - np.float32(cy)
    if angle:
        c, s = float(np.cos(angle)), float(np.sin(angle))
        dx, dy = c * dx + s * dy, c * dy - s * dx
    dx *= np.float32(1 / sx)
    dy *= np.float32(1 / sy)
    dx *= dx
    dy *= dy
    dx += dy
    dx *= np.float32(-0.5)
    return np.exp(dx, out=dx)


def mound(x: Field, y: Field, cx: float, cy: float, a: float, b: float) -> Field:
    """Smooth hill of height 1 at (cx, cy) that ends on the ellipse of half axes (a, b)."""
    dx, dy = (x - np.float32(cx)) * np.float32(1 / a), (y - np.float32(cy)) * np.float32(1 / b)
    hill = np.maximum(1 - dx * dx - dy * dy, 0)
    return hill * hill


def ridge(distance: Field, width: float) -> Field:
    """Gaussian of height 1 of a signed `distance`, standard deviation `width`."""
    t = distance * np.float32(1 / width)
    t *= t
    t *= np.float32(-0.5)
    return np.exp(t, out=t)


def stroke(x: Field, y: Field, points: Sequence[tuple[float, float]], width: float) -> Field:
    """Gaussian ridge of height 1 along the polyline `points`; `width` is its deviation."""
    best = np.full(x.shape, 1e9, np.float32)
    for (ax, ay), (bx, by) in itertools.pairwise(points):
        ux, uy = float(bx - ax), float(by - ay)
        px, py = x - np.float32(ax), y - np.float32(ay)
        along = (px * ux + py * uy) * (1 / (ux * ux + uy * uy + 1e-12))
        np.clip(along, 0, 1, out=along)
        px -= along * ux
        py -= along * uy
        np.minimum(best, px * px + py * py, out=best)
    best *= np.float32(-0.5 / width**2)
    return np.exp(best, out=best)


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
    return np.ascontiguousarray(full[top : top + height, left : left + width])


def noise_over(rng: np.random.Generator, like: Field, cell: float | tuple[float, float]) -> Field:
    """`noise` of the size of `like` [H,W]."""
    return noise(rng, like.shape[0], like.shape[1], cell)


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


def tint(planes: NDArray[Any], amount: Field, factor: Sequence[float]) -> None:
    """Multiply the colour `planes` [3,H,W] by 1 + amount * factor, in place."""
    for plane, f in zip(planes, factor, strict=True):
        if f:
            plane *= 1 + amount * np.float32(f)


def lay(planes: Sequence[Field] | Field, colour: Sequence[float | Field] | Field, alpha: Field) -> None:
    """Lay a colour (3 numbers or [3,H,W]) over the `planes` [3,H,W] by `alpha` [H,W], in place."""
    for plane, over in zip(planes, colour, strict=True):
        gap = np.asarray(over, np.float32) - plane
        gap *= alpha
        plane += gap


def spread(alpha: Field) -> NDArray[Any]:
    """A field [H,W] three times over, [H,W,3]: numpy is slow to broadcast along the last axis."""
    return cv2.merge([alpha, alpha, alpha])
