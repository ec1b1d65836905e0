"""Camera: rays through the pixels, and where they meet the head, the neck and the shoulders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .atlas import project, read
from .fields import Field
from .shot import Shot

_HEAD_HEIGHT = 2.15


def rotation(yaw: float, pitch: float, roll: float) -> NDArray[Any]:
    """Head-to-world rotation [3,3] from angles in degrees (see `Shot` for their signs)."""
    y, p, r = np.radians((yaw, pitch, roll))
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return (about_z @ about_x @ about_y).astype(np.float32)


@dataclass(frozen=True)
class Camera:
    """A pinhole at (0, 0, `distance`) looking along -z; `focal` and the centre in pixels."""

    distance: float
    focal: float
    cx: float
    cy: float

    @classmethod
    def of(cls, shot: Shot, size: int) -> Camera:
        """The camera of a shot for a frame of `size` pixels."""
        focal = shot.fill * size * shot.distance / _HEAD_HEIGHT
        return cls(shot.distance, focal, (0.5 + shot.shift[0]) * size, (0.5 + shot.shift[1]) * size)

    def pixels(self, points: NDArray[Any]) -> NDArray[Any]:
        """World points [N,3] to pixel coordinates [N,2] (x right, y down, pixel centres at .5)."""
        scale = self.focal / (self.distance - points[:, 2])
        return np.stack([self.cx + points[:, 0] * scale, self.cy - points[:, 1] * scale], -1).astype(
            np.float32
        )

    def rays(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Unit ray directions [3,H,W] through the pixel centres of a window."""
        x = np.arange(columns.start, columns.stop, dtype=np.float32)
        y = np.arange(rows.start, rows.stop, dtype=np.float32)
        dx = ((x + 0.5 - self.cx) / self.focal)[None, :]
        dy = (-(y + 0.5 - self.cy) / self.focal)[:, None]
        inverse = 1 / np.sqrt(dx * dx + dy * dy + 1)
        return np.stack([dx * inverse, dy * inverse, -inverse]).astype(np.float32)


def _at(origin: NDArray[Any], ray: NDArray[Any], t: Field) -> tuple[Field, Field, Field]:
    """Coordinates of the rays' points at travel `t`."""
    return origin[0] + t * ray[0], origin[1] + t * ray[1], origin[2] + t * ray[2]


def _gap(radius: Field, origin: NDArray[Any], ray: NDArray[Any], t: Field) -> Field:
    """How far the rays' points at travel `t` lie outside the surface (negative inside)."""
    u, v, r = project(*_at(origin, ray, t), radius.shape[0])
    r -= read(radius, u, v)
    return r


def _trace(
    radius: Field, origin: NDArray[Any], ray: NDArray[Any], t: Field, steps: int, stride: float
) -> tuple[Field, Field]:
    """Sphere tracing that strides on where a ray skims the surface.

    Returns the travel to the hit, or to the nearest approach of a ray that misses, and the gap.
    """
    best = np.full(t.shape, 1e9, np.float32)
    nearest = t.copy()
    t = t.copy()
    for _ in range(steps):
        gap = _gap(radius, origin, ray, t)
        np.copyto(nearest, t, where=gap < best)
        np.minimum(best, gap, out=best)
        go = np.float32(0.75) * gap
        np.copyto(go, np.maximum(go, np.float32(stride)), where=gap > 0)
        t += go
    np.copyto(t, nearest, where=best > 0)
    return t, best


def _polish(radius: Field, origin: NDArray[Any], ray: NDArray[Any], t: Field, best: Field) -> None:
    """Move travel that is inside the surface or has crossed it back onto it, in place."""
    out = best > 0
    for _ in range(2):
        go = np.float32(0.75) * _gap(radius, origin, ray, t)
        go[out] = 0
        t += go


def _finer(t: Field, step: int, width: int, height: int) -> Field:
    """Travel found on every `step`-th pixel (from step / 2), as a start for all of them."""
    t = cv2.erode(t, np.ones((3, 3), np.uint8))
    matrix = np.array([[1 / step, 0, -0.5], [0, 1 / step, -0.5]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(t, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True, eq=False)
class Hit:
    """Where rays met the head: map positions `u`, `v`, travel `t`, `cover` in [0, 1], all [H,W]."""

    u: Field
    v: Field
    t: Field
    cover: Field


def meet_head(radius: Field, origin: NDArray[Any], ray: NDArray[Any], pixel: float) -> Hit:
    """Rays against the star-shaped surface `radius`, all in the head's frame.

    A march over every fourth pixel finds the travel roughly; its nearest neighbours start a finer
    one, twice. `pixel` is a pixel's width at the head; the silhouette is softened over it.
    """
    reach = float(radius.max())
    coarse = np.ascontiguousarray(ray[:, 2::4, 2::4])
    along = -np.tensordot(origin, coarse, 1)
    miss = float(origin @ origin) - along * along
    t = (along - np.sqrt(np.maximum(reach * reach - miss, 0))).astype(np.float32)
    t, _ = _trace(radius, origin, coarse, t, 18, 0.04)
    half = np.ascontiguousarray(ray[:, 1::2, 1::2])
    t, _ = _trace(radius, origin, half, _finer(t, 2, half.shape[2], half.shape[1]), 8, 0.05)
    t, gap = _trace(radius, origin, ray, _finer(t, 2, ray.shape[2], ray.shape[1]), 3, 0.03)
    # Rays that slip past the nose or the ear have far to go yet; they are few.
    late = np.flatnonzero((gap > 0.0) & (gap < 0.4))
    if late.size:
        # In rows, because OpenCV's maps are not longer than 32767.
        grid = np.resize(late, (-(-late.size // 256), 256))
        few = ray.reshape(3, -1)[:, grid]
        far, still = _trace(radius, origin, few, t.ravel()[grid], 11, 0.045)
        t.ravel()[grid], gap.ravel()[grid] = far, np.minimum(still, gap.ravel()[grid])
    _polish(radius, origin, ray, t, gap)
    u, v, _ = project(*_at(origin, ray, t), radius.shape[0])
    cover = np.clip(1.0 - (gap - 0.1 * pixel) / pixel, 0, 1)
    return Hit(u, v, t, cover)
