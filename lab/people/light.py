"""Light: the lamps of a shot and how skin, hair, eyes and cloth answer them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .atlas import atlas, project, read
from .fields import Field
from .shot import Shot

Image = NDArray[Any]

# How far light wraps around a surface, by channel: blood lets red light through skin.
_SKIN_WRAP = np.array((0.36, 0.17, 0.12), np.float32)


@dataclass(frozen=True, eq=False)
class Lamps:
    """Unit directions towards the `key` and `rim` lights [3], colours [3] linear RGB."""

    key: NDArray[Any]
    rim: NDArray[Any]
    up: NDArray[Any]
    key_colour: NDArray[Any]
    rim_colour: NDArray[Any]
    sky: NDArray[Any]
    ground: NDArray[Any]

    @classmethod
    def of(cls, shot: Shot, surrounding: NDArray[Any]) -> Lamps:
        """The lamps of a shot whose surroundings have the mean colour `surrounding` [3]."""
        key = np.array(shot.light, np.float32)
        key /= np.linalg.norm(key) + 1e-6
        rim = np.array((-np.sign(key[0] + 1e-6) * 0.9, 0.35, -0.35), np.float32)
        rim /= np.linalg.norm(rim)
        bounce = surrounding / (float(surrounding.mean()) + 1e-3)
        tint = np.clip(0.6 + 0.4 * bounce, 0.5, 1.6).astype(np.float32)
        colour = np.array(shot.light_colour, np.float32)
        return cls(
            key=key,
            rim=rim,
            up=np.array((0, 1, 0), np.float32),
            key_colour=colour * np.float32(shot.light_strength),
            rim_colour=tint * np.float32(shot.rim),
            sky=tint * np.float32(shot.ambient * 1.15),
            ground=tint * np.float32(shot.ambient * 0.55),
        )

    def turned(self, turn: NDArray[Any]) -> Lamps:
        """The same lamps in the frame of a head with the head-to-world rotation `turn`."""
        back = turn.T
        return Lamps(
            back @ self.key, back @ self.rim, back @ self.up,
            self.key_colour, self.rim_colour, self.sky, self.ground,
        )  # fmt: skip


def openness(radius: Field, key: NDArray[Any]) -> tuple[Field, Field]:
    """Ambient openness and unshadowedness from `key`, [S,S] in [0, 1], of a star-shaped surface.

    Both are found on a coarse map: shadows come out soft, and cheap.
    """
    size = 128
    coarse = cv2.resize(radius, (size, size), interpolation=cv2.INTER_AREA)
    near = cv2.GaussianBlur(coarse, (0, 0), 2.2)
    far = cv2.GaussianBlur(coarse, (0, 0), 6.0)
    ambient = np.clip(1 - 6.5 * np.maximum(near - coarse, 0) - 3.2 * np.maximum(far - coarse, 0), 0.25, 1)
    d = atlas(size).direction
    point = d * coarse
    clear = np.ones((size, size), np.float32)
    for reach in (0.04, 0.08, 0.13, 0.19, 0.26, 0.36):
        p = point + np.float32(reach) * key[:, None, None]
        u, v, r = project(p[0], p[1], p[2], size)
        depth = read(coarse, u, v) - r
        clear = np.minimum(clear, 1 - np.clip((depth - 0.008) / (0.02 + 0.28 * reach), 0, 1))
    clear = cv2.GaussianBlur(clear.astype(np.float32), (0, 0), 0.9)
    full = radius.shape[::-1]
    return (
        cv2.resize(ambient.astype(np.float32), full, interpolation=cv2.INTER_LINEAR),
        cv2.resize(clear, full, interpolation=cv2.INTER_LINEAR),
    )


def _dot(a: NDArray[Any], b: NDArray[Any]) -> Field:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _power8(value: Field) -> Field:
    value = value * value
    value = value * value
    return value * value


def shade_matte(
    albedo: Sequence[Field],
    normal: NDArray[Any],
    lamps: Lamps,
    ambient: Field | float,
    clear: Field | float,
    wrap: NDArray[Any] | float = _SKIN_WRAP,
) -> list[Field]:
    """Diffuse light off the planes `albedo` 3 x [H,W] with unit `normal` [3,H,W]; 3 x [H,W]."""
    facing = _dot(normal, lamps.key)
    rim = np.maximum(_dot(normal, lamps.rim), 0)
    half = np.float32(0.5) + np.float32(0.5) * _dot(normal, lamps.up)
    wraps = np.broadcast_to(np.asarray(wrap, np.float32), (3,))
    planes = []
    for k in range(3):
        w = float(wraps[k])
        direct = facing + w
        np.maximum(direct, 0, out=direct)
        # In the penumbra light has come through skin: the blocked part keeps a little red.
        direct *= clear * ((1 - 0.25 * w) / (1 + w)) + 0.25 * w / (1 + w)
        direct *= lamps.key_colour[k]
        direct += lamps.rim_colour[k] * rim
        sky = half * (lamps.sky[k] - lamps.ground[k])
        sky += lamps.ground[k]
        sky *= ambient
        direct += sky
        direct *= albedo[k]
        planes.append(direct)
    return planes


def shine(normal: NDArray[Any], view: NDArray[Any], lamps: Lamps, gloss: Field, clear: Field) -> list[Field]:
    """Specular light of skin, lips and eyes, 3 x [H,W]; `gloss` above 1 marks wet surfaces."""
    half = lamps.key[:, None, None] + view
    key = np.maximum(_dot(normal, half), 0)
    key /= np.sqrt(_dot(half, half)) + np.float32(1e-6)
    broad = _power8(key)
    broad = broad * broad
    tight = broad * broad * broad
    wet = np.maximum(gloss - np.float32(1), 0)
    fresnel = np.float32(1) - np.maximum(_dot(normal, view), 0)
    fresnel *= fresnel
    fresnel *= fresnel
    fresnel *= np.float32(2.2)
    dry = np.minimum(gloss, 1)
    amount = (fresnel + np.float32(0.75)) * dry
    amount *= np.float32(0.085) * broad + np.float32(0.07) * tight
    amount += wet * (np.float32(1.5) * _power8(tight))
    amount *= clear
    edge = np.float32(0.05) * dry * fresnel
    return [amount * lamps.key_colour[k] + edge * lamps.sky[k] for k in range(3)]


def shine_hair(
    normal: NDArray[Any],
    view: NDArray[Any],
    lamps: Lamps,
    crown: NDArray[Any],
    strand: Field,
    clear: Field,
) -> Field:
    """Highlight bands of combed hair [H,W] (Kajiya and Kay, SIGGRAPH 1989), shifted per strand."""
    along = _dot(normal, crown)
    tangent = crown[:, None, None] - along * normal
    tangent = tangent + (np.float32(0.12) * strand + np.float32(0.05)) * normal
    tangent = tangent / (np.sqrt(_dot(tangent, tangent)) + np.float32(1e-4))
    half = lamps.key[:, None, None] + view
    half = half / (np.sqrt(_dot(half, half)) + np.float32(1e-6))
    across = _dot(tangent, half)
    band = _power8(np.maximum(1 - across * across, 0))
    tight = band * band * band
    facing = np.clip(_dot(normal, lamps.key) + 0.3, 0, 1)
    return (0.10 * band + 0.30 * tight) * facing * clear * (1 + 0.5 * np.clip(strand, -1.5, 2))


def encode(linear: Image, exposure: float, contrast: float) -> Image:
    """Linear RGB, exposed, to sRGB-like [0, 1] with a soft shoulder and a contrast about 0.45."""
    # By a table over the square root, whose steps are finest where the curve is steepest.
    levels, most = 1 << 14, 4.0
    x = np.linspace(0, most, levels, dtype=np.float32) ** 2 / np.float32(most) * np.float32(exposure)
    x = np.minimum(x * (1 + np.float32(0.12) * x) / (1 + np.float32(0.42) * x), 1)
    # sRGB's curve as a sum of roots.
    s = np.sqrt(x)
    q = np.sqrt(s)
    y = 0.662002687 * s + 0.684122060 * q - 0.323583601 * np.sqrt(q) - 0.0225411470 * x
    table = np.clip((np.clip(y, 0, 1) - 0.45) * contrast + 0.45, 0, 1).astype(np.float32)
    index = np.clip(linear, 0, most)
    np.sqrt(index, out=index)
    index *= np.float32((levels - 1) / np.sqrt(most))
    return table[index.astype(np.int32)]
