"""Body: neck, shoulders and the hair behind them, as shaded ellipsoids."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atlas import read
from .camera import Camera, meet_ellipsoid
from .fields import Field, noise, step
from .head import build_head
from .light import Lamps, shade_matte
from .person import Person
from .shot import Shot

Image = NDArray[Any]


def _clothes(shot: Shot, rng: np.random.Generator, x: Field, y: Field) -> Image:
    """Cloth colour [H,W,3] at shoulder coordinates in half head heights."""
    base = np.array(shot.clothes, np.float32)
    weave = noise(rng, x.shape[0], x.shape[1], 1.5)
    tone = 1 + 0.10 * weave + 0.08 * noise(rng, x.shape[0], x.shape[1], x.shape[0] / 12)
    other = base[::-1] * 0.6 + 0.05
    if shot.clothes_pattern == 1:
        line = step(0.2, 0.5, np.sin(y * 38))
    elif shot.clothes_pattern == 2:
        line = 0.5 * step(0.0, 0.3, np.sin(x * 30)) + 0.5 * step(0.0, 0.3, np.sin(y * 30))
    else:
        line = np.zeros_like(x)
        tone = tone * (1 + 0.08 * np.sin(x * 90) * np.sin(y * 90) * (shot.clothes_pattern == 3))
    colour = base + line[..., None] * (other - base)
    return (colour * tone[..., None]).astype(np.float32)


def draw_body(image: Image, person: Person, shot: Shot, camera: Camera, lamps: Lamps, texels: int) -> None:
    """Lay hair, neck and shoulders over the linear picture `image` [H,W,3], in place.

    They stand still in the world but for a part of the head's yaw and roll.
    """
    size = image.shape[0]
    # Shoulders start below the head's centre; the window leaves out what cannot be body.
    head = camera.focal / camera.distance
    top = int(np.clip(camera.cy - 0.9 * head, 0, size - 1))
    rows, columns = slice(top, size), slice(0, size)
    ray = camera.rays(rows, columns)
    origin = np.array((0, 0, camera.distance), np.float32)
    part = image[rows, columns]
    rng = np.random.default_rng((shot.seed, 3))
    lean = 0.25 * np.sin(np.radians(shot.roll))
    drift = 0.12 * np.sin(np.radians(shot.yaw))
    nearest = np.full(ray.shape[1:], np.inf, np.float32)
    soft = 3.0 / head

    def lay(t: Field, inside: Field, colour: Image, alpha: Field | None = None) -> None:
        nonlocal nearest
        seen = np.clip(inside / soft + 0.5, 0, 1) * (t < nearest)
        if alpha is not None:
            seen = seen * alpha
        part[...] += seen[..., None] * (colour - part)
        nearest = np.where(seen > 0.5, t, nearest).astype(np.float32)

    if camera.cy + 2.2 * head < size:
        centre = np.array((0, -5.6, -0.42), np.float32)
        axes = np.array((2.25, 4.2, 0.80), np.float32)
        t, normal, inside = meet_ellipsoid(origin, ray, centre, axes)
        cloth = _clothes(shot, rng, t * ray[0], t * ray[1])
        lay(t, inside, shade_matte(cloth, normal, lamps, 0.9, 0.9, 0.15))
    centre = np.array((0, -2.36, -0.42), np.float32)
    axes = np.array((1.9, 0.98, 0.72), np.float32)
    t, normal, inside = meet_ellipsoid(origin, ray, centre, axes)
    x, y = t * ray[0], t * ray[1]
    weave = noise(rng, x.shape[0], x.shape[1], 2.0)
    folds = noise(rng, x.shape[0], x.shape[1], max(size / 14, 2.0))
    normal = normal + np.stack([0.10 * weave + 0.12 * folds, 0.10 * folds, 0 * folds])
    normal = normal / np.sqrt((normal * normal).sum(0))
    dark = 0.45 + 0.55 * step(0.25, 0.75, np.hypot(x - drift, (y + 1.35) * 0.8))
    lay(t, inside, shade_matte(_clothes(shot, rng, x, y), normal, lamps, dark, dark, 0.15))

    centre = np.array((-lean * 0.8 + drift * 0.5, -1.22, -0.24), np.float32)
    axes = np.array((0.45 + 0.5 * (person.head_width - 0.73), 1.05, 0.46), np.float32)
    t, normal, inside = meet_ellipsoid(origin, ray, centre, axes)
    x, y = t * ray[0], t * ray[1]
    grain = noise(rng, x.shape[0], x.shape[1], 2.0)
    skin = np.array(person.skin, np.float32) * (0.94 + 0.035 * grain)[..., None]
    tendon = 0.10 * np.sin(x * 9) * step(-1.1, -1.5, y)
    normal = normal + np.stack([tendon, 0 * x, 0 * x]).astype(np.float32)
    dark = 0.30 + 0.70 * step(-1.05, -1.75, y)
    collar = step(0.0, -0.03, y + 1.55 - 0.25 * x * x)
    cloth = np.array(shot.clothes, np.float32) * 0.9
    colour = skin + collar[..., None] * (cloth - skin)
    lay(t, inside, shade_matte(colour, normal, lamps, dark, dark))

    if shot.hair_length > 0.45:
        long = (shot.hair_length - 0.45) / 0.55
        centre = np.array((drift * 0.6 - lean * 0.3, -0.55 - 0.45 * long, -0.38), np.float32)
        axes = np.array((0.80 + shot.hair_volume, 0.85 + 0.55 * long, 0.58), np.float32)
        t, normal, inside = meet_ellipsoid(origin, ray, centre, axes)
        x, y, z = t * ray[0], t * ray[1], camera.distance + t * ray[2]
        sheet = build_head(person, texels).strands
        bend = person.hair_curl * 0.10 * np.sin(y * (7 + 8 * person.hair_curl) + 3 * x)
        turn = np.arctan2(x - centre[0], z - centre[2] + 0.3) / np.pi * 0.5 + 0.5
        column = ((turn + 0.12 * bend) % 1.0 * (sheet.shape[1] - 1)).astype(np.float32)
        row = np.clip((0.5 - y) * 70, 0, sheet.shape[0] - 1).astype(np.float32)
        strand = read(sheet, column, row)
        normal = normal + np.stack([0.35 * strand, 0 * x, 0 * x])
        normal = normal / np.sqrt((normal * normal).sum(0))
        base = np.array(person.hair_colour, np.float32)
        base = base + min(person.grey, 1.0) * (0.42 - base)
        colour = base * np.exp(0.38 * np.clip(strand, -2.2, 2.2))[..., None]
        dark = 0.35 + 0.65 * step(0.45, 0.80, np.abs(x - centre[0]))
        end = centre[1] - axes[1] * 0.80
        ragged = step(end - 0.05, end + 0.10, y + 0.07 * strand)
        lay(t, inside, shade_matte(colour, normal, lamps, dark, dark, 0.3), ragged)
