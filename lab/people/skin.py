"""Skin: colour, pores, wrinkles, marks and beard, painted over the skull."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atlas import Atlas
from .fields import Field, blob, fractal, lay, noise, ridge, step, stroke, tint
from .person import Person


@dataclass(frozen=True, eq=False)
class Paint:
    """`albedo` [3,S,S] linear, `bump` [S,S] in half head heights, `gloss` [S,S] in [0, 1]."""

    albedo: NDArray[Any]
    bump: Field
    gloss: Field


def _wrinkles(person: Person, x: Field, y: Field) -> Field:
    """Depth in [0, 1] of the lines that age draws: forehead, crow's feet, under the eyes."""
    rng = np.random.default_rng((person.seed, 51))
    depth = np.zeros_like(x)
    strength = max(0.0, person.age - 0.15)
    across = np.abs(x)
    if strength:
        brow = step(0.42, 0.22, across)
        bow = 0.05 * x * x
        for k in range(3):
            lift = 0.34 + 0.075 * k + float(rng.normal(0, 0.008))
            wave = y - lift - 0.012 * np.sin(6 * x + float(rng.uniform(0, 6))) + bow
            depth += strength * float(rng.uniform(0.4, 1.0)) * ridge(wave, 0.008) * brow
    outer = person.eye_spacing + person.eye_width + 0.02
    for k in range(3):
        slope = (k - 1) * 0.045 + float(rng.normal(0, 0.006))
        path = [(outer, person.eye_height + slope * 0.5), (outer + 0.09, person.eye_height + slope * 1.6)]
        if strength:
            depth += 0.8 * strength * stroke(across, y, path, 0.006)
    bag = [
        (person.eye_spacing + d, person.eye_height - h)
        for d, h in ((-0.12, 0.055), (-0.04, 0.095), (0.05, 0.10), (0.12, 0.07))
    ]
    depth += (0.15 + 0.6 * strength) * stroke(across, y, bag, 0.010)
    return depth


def _beard(person: Person, x: Field, y: Field, z: Field) -> Field:
    """Where hair grows on the lower face, in [0, 1]."""
    lip = person.mouth_height
    across = np.abs(x)
    band = step(-0.475, -0.515, y + 0.25 * across) * step(lip - 0.05, lip + 0.02, y)
    moustache = band * step(0.33, 0.24, across)
    if person.beard_style == "moustache":
        return moustache
    beside = step(0.26, 0.31, np.sqrt(x * x + (1.5 * (y - lip)) ** 2))
    below = np.maximum(beside, step(lip - 0.115, lip - 0.155, y))
    if person.beard_style == "goatee":
        chin = step(0.36, 0.28, across) * step(lip + 0.06, lip - 0.02, y) * below * step(0, 0.2, z)
        return np.maximum(moustache, chin)
    # The cheek's line, by the angle about the vertical: from the mouth's corner up to the sideburn.
    angle = np.degrees(np.arctan2(across, z)).astype(np.float32)
    line = np.interp(angle, (0, 22, 45, 62, 75, 84, 90), (-0.47, -0.57, -0.59, -0.50, -0.28, 0.0, 0.12))
    jaw = step(0.03, -0.04, y - line.astype(np.float32)) * step(96.0, 88.0, angle) * below
    return np.maximum(moustache, jaw)


def _grow_beard(person: Person, paint: Paint, x: Field, y: Field, z: Field, unit: float) -> None:
    rng = np.random.default_rng((person.seed, 52))
    s = x.shape[0]
    grow = _beard(person, x, y, z)
    hairs = noise(rng, s, s, (max(0.035 * unit, 2.0), max(0.010 * unit, 1.0)))
    hairs += 0.7 * noise(rng, s, s, (max(0.020 * unit, 2.0), max(0.008 * unit, 1.0)))
    patchy = 1 + 0.25 * noise(rng, s, s, 0.06 * unit)
    full = person.beard
    cover = np.clip(grow * (0.45 + 0.60 * full) + (0.22 * grow) * hairs, 0, 0.70 + 0.27 * full)
    cover *= step(0.02, 0.5, grow * patchy)
    shade = 1 + 0.35 * np.clip(hairs, -1.5, 2.5)
    lay(paint.albedo, [shade * (0.9 * c + 0.008) for c in person.hair_colour], cover)
    paint.bump[...] += (0.012 * full) * grow * (1 + 0.4 * hairs)
    paint.gloss[...] *= 1 - 0.7 * cover


def _mark(person: Person, paint: Paint, grid: Atlas, x: Field, y: Field, front: Field) -> None:
    """Freckles, moles and the scar."""
    rng = np.random.default_rng((person.seed, 53))
    if person.freckles:
        count = int(230 * person.freckles)
        spots = np.zeros_like(x)
        fx, fy = rng.normal(0, 0.30, count), rng.normal(-0.14, 0.16, count)
        for px, py, size in zip(fx, fy, rng.uniform(0.008, 0.016, count), strict=True):
            _dab(spots, grid, x, y, float(px), float(py), float(size), float(rng.uniform(0.35, 1.0)))
        tint(paint.albedo, front * np.minimum(spots, 1), (-0.30, -0.48, -0.58))
    spots = np.zeros_like(x)
    for px, py, size in person.moles:
        _dab(spots, grid, x, y, px, py, size, 1.3)
    if person.moles:
        spots = front * step(0.25, 0.75, spots)
        lay(paint.albedo, [c * f for c, f in zip(person.skin, (0.26, 0.18, 0.17), strict=True)], 0.92 * spots)
        paint.bump[...] += 0.006 * spots
    if person.scar:
        line = front * stroke(x, y, person.scar, person.scar_width)
        # Pink on fair skin, pale on dark skin.
        fair = min(1.0, person.skin[1] / 0.40)
        pink, pale = (0.98, 0.46, 0.47), (2.7, 2.9, 3.1)
        tones = (c * (q + fair * (p - q)) for c, p, q in zip(person.skin, pink, pale, strict=True))
        lay(paint.albedo, [min(tone, 0.9) for tone in tones], 0.85 * line)
        paint.bump[...] -= 0.008 * line


def paint_skin(person: Person, grid: Atlas, x: Field, y: Field, z: Field) -> Paint:
    """The person's skin over skull points `x`, `y`, `z` [S,S]."""
    rng = np.random.default_rng((person.seed, 50))
    s = grid.size
    # The texture is drawn with cells in units of the head: alike at every size.
    unit = grid.density
    front = step(0.0, 0.2, z)
    across = np.abs(x)
    blotch = fractal(rng, s, s, 0.25 * unit, 3)
    mottle = fractal(rng, s, s, max(0.06 * unit, 2.0), 2)
    pores = noise(rng, s, s, max(0.015 * unit, 1.5))
    rough = person.skin_rough
    light = 1 + 0.030 * blotch + (0.022 * rough) * mottle + (0.035 * rough) * np.minimum(pores, 0.6)
    albedo = np.array(person.skin, np.float32)[:, None, None] * light
    red = 0.8 * blob(across, y, 0.36, -0.26, 0.15, 0.13) + 0.7 * blob(x, y, 0, -0.30, 0.10, 0.08)
    red += 0.45 * blob(x, y, 0, -0.9, 0.12, 0.07)
    ears = step(0.30, 0.02, np.sqrt((y + 0.06) ** 2 + (z + 0.1) ** 2)) * step(0.4, 0.6, across)
    red = person.ruddy * np.clip((front * red + 0.8 * ears) * (1 + 0.25 * mottle) + 0.08 * blotch, 0, 1.4)
    tint(albedo, red, (0.06, -0.17, -0.16))
    shade = front * blob(across, y, person.eye_spacing - 0.03, person.eye_height, 0.12, 0.075)
    tint(albedo, shade, (-0.16, -0.24, -0.20))
    wrinkle = front * _wrinkles(person, x, y)
    tint(albedo, np.minimum(wrinkle, 1), (-0.22, -0.24, -0.22))
    bump = (-0.0005 * rough) * np.maximum(pores, 0)
    bump += (0.0004 * rough * (0.5 + person.age)) * mottle - 0.007 * wrinkle
    gloss = 0.40 + 0.40 * blob(x, y, 0, -0.1, 0.10, 0.28) + 0.3 * blob(x, y, 0, 0.42, 0.3, 0.16)
    gloss += 0.2 * blob(across, y, 0.4, -0.18, 0.12, 0.1)
    gloss *= 1 + 0.15 * mottle + 0.12 * pores
    paint = Paint(albedo, bump, gloss)
    if person.beard:
        _grow_beard(person, paint, x, y, z, unit)
    _mark(person, paint, grid, x, y, front)
    np.clip(albedo, 0.004, 0.92, out=albedo)
    np.clip(gloss, 0, 1, out=gloss)
    return paint


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
