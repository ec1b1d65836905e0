"""Skin: colour, pores, wrinkles, marks and beard, painted over the skull."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atlas import Atlas
from .fields import Field, blob, fractal, mix, noise, step, stroke
from .person import Person


@dataclass(frozen=True, eq=False)
class Paint:
    """`albedo` [S,S,3] linear, `bump` [S,S] in half head heights, `gloss` [S,S] in [0, 1]."""

    albedo: NDArray[Any]
    bump: Field
    gloss: Field


def _wrinkles(person: Person, rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Depth in [0, 1] of the lines that age draws: forehead, crow's feet, under the eyes."""
    depth = np.zeros_like(x)
    strength = max(0.0, person.age - 0.15)
    for k in range(3):
        lift = 0.34 + 0.075 * k + rng.normal(0, 0.008)
        wave = lift + 0.012 * np.sin(6 * x + rng.uniform(0, 6)) - 0.05 * x * x
        line = np.exp(-0.5 * ((y - wave) / 0.007) ** 2) * step(0.42, 0.22, np.abs(x))
        depth += strength * rng.uniform(0.4, 1.0) * line
    for side in (-1, 1):
        for k in range(3):
            ex, ey = side * (person.eye_spacing + person.eye_width + 0.02), person.eye_height
            slope = (k - 1) * 0.045 + rng.normal(0, 0.006)
            path = [(ex, ey + slope * 0.5), (ex + side * 0.09, ey + slope * 1.6)]
            depth += 0.8 * strength * stroke(x, y, path, 0.005)
        bag = [
            (side * (person.eye_spacing + d), person.eye_height - h)
            for d, h in ((-0.12, 0.055), (-0.04, 0.095), (0.05, 0.10), (0.12, 0.07))
        ]
        bag = [(side * person.eye_spacing + side * (abs(a) - person.eye_spacing), b) for a, b in bag]
        depth += (0.25 + 0.6 * strength) * stroke(x, y, bag, 0.009)
    return depth.astype(np.float32)


def _beard(person: Person, x: Field, y: Field, z: Field) -> Field:
    """Where hair grows on the lower face, in [0, 1]."""
    lip = person.mouth_height
    jaw = step(-0.42, -0.62, y + 0.25 * np.abs(x)) * step(-0.15, 0.1, z)
    burn = step(0.50, 0.60, np.abs(x)) * step(0.0, -0.2, y) * step(-0.12, 0.05, z)
    lip_hair = step(0.30, 0.22, np.abs(x)) * step(-0.46, -0.50, y) * step(lip - 0.02, lip + 0.03, y)
    chin = step(0.24, 0.30, np.hypot(x, (y - lip) * 1.4)) + step(lip - 0.13, lip - 0.17, y)
    jaw = jaw * np.clip(chin, 0, 1)
    return np.clip(np.maximum(np.maximum(jaw, burn), lip_hair), 0, 1).astype(np.float32)


def paint_skin(person: Person, grid: Atlas, x: Field, y: Field, z: Field) -> Paint:
    """The person's skin over skull points `x`, `y`, `z` [S,S]."""
    rng = np.random.default_rng(person.seed)
    s = grid.size
    # The texture is drawn at one resolution per size, with cells in units of the head.
    unit = grid.density
    front = step(0.0, 0.2, z)
    skin = np.array(person.skin, np.float32)
    blotch = fractal(rng, s, s, 0.25 * unit, 4)
    mottle = fractal(rng, s, s, max(0.04 * unit, 1.5), 3)
    pores = noise(rng, s, s, max(0.012 * unit, 1.0))
    fine = noise(rng, s, s, max(0.022 * unit, 1.0))
    light = 1 + 0.035 * blotch + 0.030 * person.skin_rough * mottle
    light += 0.045 * person.skin_rough * np.minimum(pores, 0.6)
    albedo = skin[None, None] * light[..., None]
    red = 0.8 * blob(np.abs(x), y, 0.36, -0.26, 0.15, 0.13) + 0.7 * blob(x, y, 0, -0.30, 0.10, 0.08)
    red += 0.45 * blob(x, y, 0, -0.9, 0.12, 0.07)
    red = front * red + 0.8 * step(0.30, 0.02, np.hypot(y + 0.06, z + 0.1)) * step(0.4, 0.6, np.abs(x))
    red = person.ruddy * np.clip(red * (1 + 0.25 * mottle) + 0.10 * blotch, 0, 1.4)
    albedo *= 1 + red[..., None] * np.array((0.06, -0.17, -0.16), np.float32)
    shade = front * blob(np.abs(x), y, person.eye_spacing - 0.03, person.eye_height, 0.12, 0.075)
    albedo *= 1 - shade[..., None] * np.array((0.16, 0.24, 0.20), np.float32)
    if person.freckles:
        count = int(260 * person.freckles)
        spots = np.zeros((s, s), np.float32)
        fx = rng.normal(0, 0.33, count)
        fy = rng.normal(-0.12, 0.2, count)
        for px, py, size in zip(fx, fy, rng.uniform(0.006, 0.014, count), strict=False):
            _dab(spots, grid, x, y, float(px), float(py), float(size), rng.uniform(0.3, 1.0))
        tint = 1 - front[..., None] * np.minimum(spots, 1)[..., None] * np.array(
            (0.32, 0.48, 0.58), np.float32
        )
        albedo *= tint
    wrinkle = front * _wrinkles(person, rng, x, y)
    albedo *= 1 - 0.22 * np.minimum(wrinkle, 1)[..., None]
    bump = -0.0008 * person.skin_rough * np.maximum(pores, 0) + 0.0005 * fine
    bump += 0.0005 * person.skin_rough * (1 + person.age) * mottle - 0.007 * wrinkle
    gloss = 0.42 + 0.45 * blob(x, y, 0, -0.1, 0.09, 0.28) + 0.3 * blob(x, y, 0, 0.42, 0.3, 0.16)
    gloss += 0.2 * blob(np.abs(x), y, 0.4, -0.18, 0.12, 0.1)
    gloss *= 1 + 0.25 * mottle + 0.2 * pores
    marks = np.zeros((s, s), np.float32)
    for px, py, size in person.moles:
        _dab(marks, grid, x, y, px, py, size, 1.3)
    marks = front * step(0.25, 0.75, marks)
    albedo = mix(albedo, skin * (0.30, 0.22, 0.22), 0.9 * marks)
    bump += 0.006 * marks
    if person.scar:
        line = front * stroke(x, y, list(person.scar), person.scar_width)
        albedo = mix(albedo, skin * 1.15 + (0.06, 0.01, 0.02), 0.75 * line)
        bump -= 0.006 * line
    if person.beard:
        grow = _beard(person, x, y, z)
        hairs = noise(rng, s, s, (max(0.03 * unit, 1.0), max(0.008 * unit, 1.0)))
        hairs += 0.7 * noise(rng, s, s, (max(0.012 * unit, 1.0), max(0.006 * unit, 1.0)))
        cover = np.clip(grow * (0.25 + 1.1 * person.beard) + 0.30 * grow * hairs, 0, 0.95)
        cover *= step(0.02, 0.35, grow * (1 + 0.3 * mottle))
        dark = np.array(person.hair_colour, np.float32) * 0.9 + 0.01
        dark = dark * (1 + 0.4 * np.clip(hairs, -1.5, 2.5))[..., None]
        albedo = mix(albedo, dark, cover)
        bump += 0.010 * person.beard * grow * (1 + 0.5 * hairs)
        gloss *= 1 - 0.7 * cover
    return Paint(
        np.clip(albedo, 0.004, 0.92).astype(np.float32),
        bump.astype(np.float32),
        np.clip(gloss, 0, 1).astype(np.float32),
    )


def _dab(
    canvas: Field, grid: Atlas, x: Field, y: Field, px: float, py: float, size: float, height: float
) -> None:
    """Add a Gaussian spot at the front point (px, py), touching only the texels around it."""
    # A guess of the front direction is enough to place the window; the spot itself is exact.
    depth = np.sqrt(max(0.05, 0.85 - px * px * 1.2 - py * py * 0.7))
    norm = np.sqrt(px * px + py * py + depth * depth)
    zc = depth / norm
    g = grid.density * np.sqrt(2 / (1 + zc)) / (1 + 0.4 * (1 - zc)) / norm
    column, row = px * g + grid.size / 2, grid.size / 2 - py * g
    reach = int(grid.density * (4 * size + 0.06)) + 2
    rows = slice(max(0, int(row) - reach), int(row) + reach)
    columns = slice(max(0, int(column) - reach), int(column) + reach)
    canvas[rows, columns] += height * blob(x[rows, columns], y[rows, columns], px, py, size, size)
