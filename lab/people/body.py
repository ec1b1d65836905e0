"""Body: shoulders, neck and the hair behind them, as upright rounded slabs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atlas import read
from .camera import Camera
from .fields import Field, lay, noise_over, ridge, step
from .hair import HANGS, girth
from .head import build_head
from .light import Lamps, shade_matte
from .person import Person
from .shot import Shot

# Depth of the plane in which the body stands, and half widths of the torso by height.
_PLANE = -0.42
_TORSO_Y = (-6.0, -3.2, -2.4, -2.05, -1.86, -1.72, -1.62, -1.55, -1.49, -1.42)
_TORSO_X = (1.75, 1.66, 1.70, 1.62, 1.46, 1.20, 0.90, 0.66, 0.50, 0.40)


@dataclass(frozen=True, eq=False)
class _Slab:
    """Part of the frame: coordinates `x`, `y` [H,W] in half head heights, `aa` a pixel's width."""

    x: Field
    y: Field
    aa: float


def _normal(off: Field, slope: Field | float) -> NDArray[Any]:
    """Unit normals [3,H,W] of a slab at `off` in [-1, 1] across; its outline rises by `slope`."""
    edge = np.clip(np.abs(off), 0, 0.99) ** 1.5
    out = edge / np.sqrt(1 + slope * slope)
    return np.stack([np.sign(off) * out, out * slope, np.sqrt(1 - edge * edge)]).astype(np.float32)


def _bent(normal: NDArray[Any], x: Field, y: Field | float) -> NDArray[Any]:
    """`normal` pushed by `x` and `y`, of unit length again."""
    normal[0] += x
    normal[1] += y
    normal /= np.sqrt((normal * normal).sum(0))
    return normal


def _cloth(shot: Shot, rng: np.random.Generator, x: Field, y: Field) -> list[Field]:
    """Cloth colour, 3 x [H,W], at shoulder coordinates."""
    tone = 1 + 0.10 * noise_over(rng, x, 1.5) + 0.08 * noise_over(rng, x, max(x.shape[1] / 12, 2.0))
    if shot.clothes_pattern == 1:
        line = step(0.2, 0.5, np.sin(y * 38))
    elif shot.clothes_pattern == 2:
        line = 0.5 * step(0.0, 0.3, np.sin(x * 30)) + 0.5 * step(0.0, 0.3, np.sin(y * 30))
    else:
        line = np.zeros_like(x)
        tone *= 1 + (0.08 * (shot.clothes_pattern == 3)) * np.sin(x * 60) * np.sin(y * 60)
    other = [0.6 * c + 0.05 for c in reversed(shot.clothes)]
    return [(c + line * (o - c)) * tone for c, o in zip(shot.clothes, other, strict=True)]


def _skin(person: Person, rng: np.random.Generator, like: Field) -> list[Field]:
    grain = 0.93 + 0.03 * noise_over(rng, like, 2.0) + 0.02 * noise_over(rng, like, 12.0)
    return [c * grain for c in person.skin]


def _hair(part: Any, person: Person, shot: Shot, slab: _Slab, turn: Any, lamps: Lamps, texels: int) -> None:
    """The hair that hangs behind the neck: the head's turned shell goes on downwards."""
    long = (shot.hair_length - HANGS) / (1 - HANGS)
    wide, deep = girth(person, shot)
    deep -= 0.15
    # The shell is an ellipse on end: its outline is as wide as the ellipse seen from the camera.
    side, front = float(turn[0, 0]), float(turn[0, 2])
    half = float(np.hypot(wide * side, deep * front)) * 0.985
    x, y = slab.x, slab.y
    middle = -0.2 * front + float(turn[0, 1]) * np.maximum(y, -0.75)
    end = -1.05 - 0.95 * long
    width = half * (1 - 0.10 * step(-0.6, end - 0.2, y) * (1 - person.hair_curl))
    off = (x - middle) / width
    sheet = build_head(person, texels).strands
    bend = person.hair_curl * 0.06 * np.sin(y * (7 + 6 * person.hair_curl) + 3 * x)
    around = np.arcsin(np.clip(off, -1, 1)) / (2 * np.pi) + 0.5 + 0.15 * bend
    column = ((around - np.floor(around)) * (sheet.shape[1] - 1)).astype(np.float32)
    strand = read(sheet, column, np.clip((0.5 - y) * 36, 0, sheet.shape[0] - 1).astype(np.float32))
    tone = np.exp(0.30 * np.clip(strand, -2.2, 2.2))
    colour = [(c + min(person.grey, 1.0) * (0.42 - c)) * tone for c in person.hair_colour]
    dark = 0.25 + 0.75 * step(0.50, 0.90, np.abs(off)) * step(-0.1, 0.35, np.abs(off) + 0.15 * y)
    alpha = np.clip((1 - np.abs(off)) * (width / slab.aa) + 0.5, 0, 1)
    alpha *= step(end - 0.06, end + 0.08, y + 0.07 * strand)
    alpha *= step(0.45, 0.15, y)
    normal = _bent(_normal(off, 0.0), 0.25 * strand, 0.0)
    lay(part, shade_matte(colour, normal, lamps, dark, dark, 0.3), alpha)


def draw_body(
    image: NDArray[Any], person: Person, shot: Shot, camera: Camera, turn: NDArray[Any], lamps: Lamps,
    texels: int,
) -> None:  # fmt: skip
    """Lay hair, shoulders and neck over the linear picture `image` [3,H,W], in place.

    The shoulders stand still in the world; the neck leads from them to the head turned by `turn`.
    """
    size = image.shape[1]
    unit = camera.focal / (camera.distance - _PLANE)
    hangs = shot.hair_length > HANGS
    top = int(np.clip(camera.cy - (0.5 if hangs else -0.3) * unit, 0, size - 1))
    across = (np.arange(size, dtype=np.float32) + 0.5 - camera.cx) / unit
    down = -(np.arange(top, size, dtype=np.float32) + 0.5 - camera.cy) / unit
    x, y = np.meshgrid(across, down)
    part = image[:, top:]
    rng = np.random.default_rng((shot.seed, 3))
    if hangs:
        _hair(part, person, shot, _Slab(x, y, 1 / unit), turn, lamps, texels)

    start = int(np.clip(camera.cy + 1.2 * unit - top, 0, y.shape[0]))
    below = _Slab(x[start:], y[start:], 1 / unit)
    cloth = np.zeros_like(x)
    if below.y.shape[0] > 1:
        cloth[start:] = _torso(part[:, start:], person, shot, below, rng, lamps)
    base = turn @ np.array((0, -0.62, -0.22), np.float32)
    reach = 0.75 * unit
    left = int(np.clip(camera.cx + (min(base[0], 0)) * unit - reach, 0, size - 1))
    right = int(np.clip(camera.cx + (max(base[0], 0)) * unit + reach, left + 1, size))
    where = np.s_[:, left:right]
    _neck(part[:, :, left:right], person, _Slab(x[where], y[where], 1 / unit), base, cloth[where], rng, lamps)


def _torso(part: Any, person: Person, shot: Shot, slab: _Slab, rng: Any, lamps: Lamps) -> Field:
    """Draw the shoulders; returns where cloth covers them [H,W]."""
    x, y = slab.x, slab.y
    rows = y[:, 0]
    width = np.interp(rows, _TORSO_Y, _TORSO_X)
    slope = np.clip(-np.gradient(width, rows), 0, 6)
    width, slope = (v.astype(np.float32)[:, None] for v in (width, slope))
    off = x / width
    alpha = np.clip((width - np.abs(x)) / np.sqrt(1 + slope * slope) / slab.aa + 0.5, 0, 1)
    alpha *= step(-1.42, -1.45, y)
    neckline = -1.50 + 0.35 * x * x if shot.clothes_pattern % 2 else -1.66 + 0.55 * np.abs(x)
    # A stand of the collar's cloth lies over the shoulder's own outline.
    cloth = step(0.01, -0.01, y - neckline)
    fold = noise_over(rng, x, max(0.25 / slab.aa, 2.0))
    normal = _bent(
        _normal(off, slope),
        cloth * (0.06 * noise_over(rng, x, 2.0) + 0.14 * fold),
        0.10 * fold * cloth + 0.12 * ridge(y - neckline + 0.03, 0.025),
    )
    colour = _skin(person, rng, x)
    lay(colour, _cloth(shot, rng, x, y), cloth)
    near = np.sqrt(x * x + (1.3 * (y + 1.25)) ** 2)
    dark = 0.45 + 0.55 * step(0.25, 0.85, near)
    dark *= 1 - 0.25 * (1 - cloth) * step(0.08, 0.0, y - neckline)
    lay(part, shade_matte(colour, normal, lamps, dark, dark, 0.15), alpha)
    return alpha * cloth


def _neck(part: Any, person: Person, slab: _Slab, base: Any, cloth: Field, rng: Any, lamps: Lamps) -> None:
    """Draw the neck from the head's `base` down to the shoulders, where it fades into their skin."""
    x, y = slab.x, slab.y
    climb = np.clip((y + 1.62) / (float(base[1]) + 1.62), 0, 1)
    thick = 0.40 + 0.45 * (person.head_width - 0.725) + 0.08 * (person.jaw_square - 2.5)
    width = thick + 0.22 * step(-1.34, -1.66, y) ** 2
    off = (x - float(base[0]) * climb) / width
    alpha = np.clip((1 - np.abs(off)) * (width / slab.aa) + 0.5, 0, 1)
    alpha *= step(float(base[1]) + 0.5, float(base[1]) + 0.4, y)
    alpha *= step(-1.66, -1.52, y) * (1 - cloth)
    tendon = 0.16 * np.sin(9 * off) * step(-1.1, -1.5, y)
    throat = 0.10 * ridge(off, 0.25) * np.sin(14 * y)
    dark = 0.34 + 0.66 * step(float(base[1]) - 0.35, -1.55, y)
    light = shade_matte(_skin(person, rng, x), _bent(_normal(off, 0.0), tendon, throat), lamps, dark, dark)
    lay(part, light, alpha)
