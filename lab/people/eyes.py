"""Eyes and brows: lids, ball, iris, lashes and brow hairs."""

from __future__ import annotations

import numpy as np

from .face import Face
from .fields import Field, blob, lay, mound, noise, noise_over, ridge, step, tint
from .head import Head
from .person import Person
from .shot import Shot


def _iris(person: Person, r: Field, dx: Field, dy: Field) -> list[Field]:
    """Colour planes of the iris and pupil at offsets `dx`, `dy`, radius `r` in iris radii."""
    # Fibres are noise in the angle, read through a ring so that it closes on itself.
    wheel = np.linspace(0, 2 * np.pi, 256, dtype=np.float32)
    spokes = np.random.default_rng((person.seed, 11)).standard_normal((24, 2), dtype=np.float32)
    order = np.arange(4, 28, dtype=np.float32)
    ring_noise = (spokes[:, :1] * np.sin(order[:, None] * wheel + 2.4 * spokes[:, 1:])).sum(0) / 3.5
    around = np.arctan2(dy, dx) + 0.12 * np.sin(7 * r)
    fibre = ring_noise[(around * (255 / (2 * np.pi))).astype(np.int32) % 256]
    collar = ridge(r - 0.52, 0.14)
    tone = 0.95 + 0.34 * np.clip(fibre, -1.6, 1.6) + 0.55 * collar
    warm = 0.5 * collar * step(0.62, 0.4, r)
    # Light that enters through the cornea gathers on the far, lower side of the iris.
    tone *= 1 + 0.45 * np.clip(-dy / person.iris_size, -1, 1)
    tone *= 1 - 0.75 * step(0.78, 0.98, r)
    pupil = 1 - 0.97 * step(0.44, 0.36, r)
    return [
        np.maximum((c * tone + w * warm) * pupil, 0.003)
        for c, w in zip(person.iris, (0.07, 0.04, 0.0), strict=True)
    ]


def paint_eye(face: Face, head: Head, person: Person, shot: Shot, side: int) -> None:
    """Paint the eye of the picture's right (`side` 1) or left (-1) and name its points."""
    cx, cy = side * person.eye_spacing, person.eye_height + side * person.skew
    where = head.window(cx, cy, 0.175, 0.115, 0.15)
    rng = np.random.default_rng((person.seed, 2 + side))
    aa = 1.2 / head.grid.density
    dx, dy = side * (head.x[where] - cx), head.y[where] - cy
    c, s = float(np.cos(person.eye_tilt)), float(np.sin(person.eye_tilt))
    ex, ey = c * dx + s * dy, c * dy - s * dx
    w = person.eye_width
    t = ex / w
    span = np.abs(t)
    smile = max(0.0, shot.smile)
    low = (-0.62 * person.eye_open * (1 - 0.30 * smile)) * np.maximum(1 - np.abs(t - 0.12) ** 2.3, 0)
    arc = np.maximum(1 - span**2.2, 0) * (1 - 0.15 * t)
    high = (person.eye_open * (1 + 0.10 * max(0.0, shot.brows))) * arc
    opened = float(np.clip(shot.eyes_open, 0.0, 1.15)) * (1 - 0.12 * smile)
    high = low + (high - low) * opened
    inside = step(-aa, aa, high - ey) * step(-aa, aa, ey - low) * step(1.0 + aa, 1.0 - aa, span)
    skin = 1 - inside
    albedo = face.albedo[(slice(None), *where)]

    # The ball and the lids: relief first, then paint.
    face.radius[where] += 0.036 * mound(ex, ey, 0, 0, 0.21, 0.145)
    lid = ridge(ey - high - 0.012, 0.013) * step(1.15, 0.85, span)
    crease = ridge(ey - high - person.lid_crease * np.maximum(1.08 - 0.85 * t * t, 0.1), 0.0085)
    crease *= step(1.25, 0.8, span)
    under = ridge(ey - low + 0.010, 0.010) * step(1.1, 0.7, span)
    face.bump[where] += skin * (0.014 * lid + 0.006 * under) - 0.012 * crease
    tint(albedo, crease, (-0.40, -0.44, -0.42))
    tint(albedo, under * skin, (0.10, 0.02, 0.04))

    gx = shot.gaze[0] * person.iris_size * side * 0.9
    gy = shot.gaze[1] * person.iris_size + 0.009
    ix, iy = ex - gx, ey - gy
    r = np.sqrt(ix * ix + iy * iy) / person.iris_size
    veins = 1 + 0.03 * noise_over(rng, ex, 3.0)
    # The ball turns away from the light towards its corners.
    veins *= 1 - 0.30 * np.clip(span, 0, 1) ** 2.5
    red = np.clip(span, 0, 1) ** 3 + 0.25 * np.maximum(noise_over(rng, ex, (2.0, 9.0)), 0)
    white = [veins * base * (1 - red * f) for base, f in ((0.60, 0.02), (0.565, 0.30), (0.54, 0.28))]
    lay(albedo, white, inside)
    lay(albedo, (0.50, 0.21, 0.19), 0.8 * inside * blob(t, ey, -0.93, 0.0, 0.07, 0.014))
    soft = aa / person.iris_size
    lay(albedo, _iris(person, r, ix, iy), inside * step(1 + soft, 1 - soft, r))
    # The upper lid and its lashes shade the ball.
    albedo *= 1 - 0.66 * inside * step(0.042, 0.0, high - ey)
    face.gloss[where] = face.gloss[where] * skin + 2.6 * inside
    bx, by = ex * (side * 0.8 / 0.105) + 0.28 * side, ey * (0.8 / 0.105)
    face.balls.append((where, inside, np.stack([bx, by, np.sqrt(np.maximum(1 - bx * bx - by * by, 0.08))])))

    # Lashes: a dark edge, then hairs fanning out from it.
    lash = [c * 0.35 + 0.004 for c in person.hair_colour]
    wing = step(1.12, 0.95, span) * step(-1.02, -0.6, t)
    lay(albedo, lash, 0.95 * ridge(ey - high, 0.0085) * wing)
    reach = ey - high
    fan = (ex - 0.5 * reach * (0.4 + t)) / 0.0125
    hairs = 0.5 + 0.5 * np.cos(2 * np.pi * fan + 2.0 * np.sin(fan * 0.9 + person.seed % 7))
    length = 0.034 * (0.55 + 0.45 * np.clip(t, -1, 1))
    upper = hairs * step(length, 0.0, reach) * step(-0.006, 0.002, reach) * wing
    lay(albedo, lash, 0.75 * upper)
    drop = low - ey
    fan = (ex + 0.4 * drop * t) / 0.016
    hairs = 0.5 + 0.5 * np.cos(2 * np.pi * fan + 2.0 * np.sin(fan * 1.1))
    lay(albedo, lash, 0.40 * hairs * hairs * step(0.018, 0.0, drop) * step(-0.002, 0.003, drop) * wing)

    name = "right" if side > 0 else "left"
    look = (cx + side * (c * gx - s * gy), cy + s * gx + c * gy)
    for label, place in (
        ("eye_inner", (cx - side * c * w, cy - s * w)),
        ("eye_outer", (cx + side * c * w, cy + s * w)),
        ("pupil", look),
    ):
        face.points[f"{name}_{label}"] = place
    # The middle of the pupil is seen while the upper lid stays above it.
    at = gx / w
    floor = -0.62 * person.eye_open * (1 - 0.30 * smile) * max(1 - abs(at - 0.12) ** 2.3, 0.0)
    roof = person.eye_open * (1 + 0.10 * max(0.0, shot.brows)) * (1 - abs(at) ** 2.2) * (1 - 0.15 * at)
    if floor + (roof - floor) * opened < gy:
        face.shut.add(f"{name}_pupil")


def paint_brow(face: Face, head: Head, person: Person, shot: Shot, side: int) -> None:
    """Paint the brow of the picture's right (`side` 1) or left (-1) and name its point."""
    cx = side * (person.eye_spacing + 0.015)
    cy = person.eye_height + person.brow_height + 0.035 * shot.brows + side * 1.5 * person.skew
    where = head.window(cx, cy, 0.235, 0.105, 0.11)
    rng = np.random.default_rng((person.seed, 20 + side))
    dx, dy = side * (head.x[where] - cx), head.y[where] - cy
    t = dx / person.brow_length
    knit = (-0.03 * max(0.0, -shot.brows)) * step(0.0, -1.0, t)
    middle = person.brow_arch * (1 - ((t - 0.35) / 1.1) ** 2) + person.brow_tilt * dx + knit
    near = np.clip(t, -1, 1)
    thick = person.brow_thick * np.clip(1.15 - 0.65 * near * near - 0.35 * t, 0.15, 1.3)
    off = (dy - middle) / thick
    body = step(1.45, 0.25, np.abs(off)) * step(1.08, 0.75, t) * step(-1.12, -0.80, t)
    # Hairs run outwards and up at the inner end, outwards and down at the outer one.
    slant = 0.9 - 1.3 * step(-1.0, 0.9, t)
    slant += (np.abs(slant) < 0.15) * (np.float32(0.15) - slant)
    across = dx - dy / slant * 0.6
    lines = noise(rng, 1, 4096, 2.0)[0]
    index = np.clip((across * 380).astype(np.int32) + 1000, 0, 4095)
    strand = lines[index] + 0.5 * noise_over(rng, dx, 1.6)
    cover = np.clip(body * (0.80 + 0.30 * strand), 0, 0.95)
    # Brows of fair hair are darker than it, or they would vanish.
    shade = 0.40 if max(person.hair_colour) > 0.3 else 0.65
    lay(face.albedo[(slice(None), *where)], [c * shade + 0.006 for c in person.hair_colour], cover)
    face.bump[where] += 0.005 * body * (1 + 0.5 * strand)
    face.gloss[where] *= 1 - 0.6 * cover
    name = "right" if side > 0 else "left"
    face.points[f"{name}_brow"] = (cx, cy + person.brow_arch * 0.9)
