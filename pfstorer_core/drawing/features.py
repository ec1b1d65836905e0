"""Features: eyes, brows and mouth, painted anew for each photo because expression moves them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .fields import Field, blob, noise, step, stroke
from .head import Head
from .person import Person
from .shot import Shot


@dataclass(frozen=True, eq=False)
class Face:
    """The head's maps in one photo; `ball` [S,S,3] replaces the normal where `ball_mask` is 1.

    `points` are the named front points (x, y) that expression moved.
    """

    radius: Field
    bump: Field
    gloss: Field
    albedo: NDArray[Any]
    ball: NDArray[Any]
    ball_mask: Field
    points: dict[str, tuple[float, float]]


def _lay(face: Face, where: tuple[slice, slice], colour: object, alpha: Field) -> None:
    part = face.albedo[where]
    part += alpha[..., None] * (np.asarray(colour, np.float32) - part)


def _eye(face: Face, head: Head, person: Person, shot: Shot, side: int) -> None:
    cx, cy = side * person.eye_spacing, person.eye_height + side * person.skew
    where = head.window(cx, cy, 0.19)
    rng = np.random.default_rng((person.seed, 2 + side))
    aa = 1.2 / head.grid.density
    dx, dy = side * (head.x[where] - cx), head.y[where] - cy
    c, s = float(np.cos(person.eye_tilt)), float(np.sin(person.eye_tilt))
    ex, ey = c * dx + s * dy, c * dy - s * dx
    w = person.eye_width
    t = ex / w
    arc = np.maximum(1 - np.abs(t) ** 2.2, 0)
    squint = 1 - 0.25 * max(0.0, shot.smile)
    low = -0.62 * person.eye_open * squint * np.maximum(1 - np.abs(t - 0.12) ** 2.3, 0)
    open_y = (person.eye_open * (1 + 0.10 * max(0.0, shot.brows))) * arc * (1 - 0.15 * t)
    high = low + (open_y - low) * np.clip(shot.eyes_open, 0.0, 1.2) * (1 if squint > 0.9 else 0.95)
    inside = step(-aa, aa, high - ey) * step(-aa, aa, ey - low) * step(1.0 + aa, 1.0 - aa, np.abs(t))

    # The ball and the lids: relief first, then paint.
    face.radius[where] += 0.035 * blob(ex, ey, 0, 0, 0.10, 0.075)
    lid = np.exp(-0.5 * ((ey - high - 0.012) / 0.012) ** 2) * step(1.15, 0.85, np.abs(t))
    crease_y = high + person.lid_crease * np.maximum(1.08 - 0.85 * t * t, 0.1)
    crease = np.exp(-0.5 * ((ey - crease_y) / 0.0075) ** 2) * step(1.25, 0.8, np.abs(t))
    under = np.exp(-0.5 * ((ey - low + 0.010) / 0.010) ** 2) * step(1.1, 0.7, np.abs(t))
    face.bump[where] += 0.014 * lid * (1 - inside) + 0.006 * under * (1 - inside) - 0.012 * crease
    face.albedo[where] *= 1 - 0.42 * crease[..., None]
    face.albedo[where] *= 1 + under[..., None] * (1 - inside)[..., None] * np.array((0.1, 0.03, 0.05))

    size = inside.shape
    gx = shot.gaze[0] * person.iris_size * side * 0.9
    gy = shot.gaze[1] * person.iris_size + 0.006
    r = np.hypot(ex - gx, ey - gy) / person.iris_size
    veins = noise(rng, size[0], size[1], 3.0)
    white = np.array((0.66, 0.63, 0.60), np.float32) * (1 + 0.03 * veins)[..., None]
    corner = np.clip(np.abs(t) ** 3, 0, 1)
    white = white * (1 - corner[..., None] * np.array((0.10, 0.36, 0.34), np.float32))
    white *= 1 - 0.10 * np.maximum(noise(rng, size[0], size[1], (2.0, 9.0)), 0)[..., None] * np.array(
        (0.0, 1.0, 1.0), np.float32
    )
    _lay(face, where, white, inside)
    tear = blob(t, ey, -0.93, 0.0, 0.07, 0.014)
    _lay(face, where, (0.55, 0.22, 0.20), 0.8 * inside * tear)
    # Iris: fibres are noise in the angle, read through a ring so that it closes on itself.
    wheel = np.linspace(0, 2 * np.pi, 256, dtype=np.float32)
    spokes = np.random.default_rng((person.seed, 11)).standard_normal((24, 2)).astype(np.float32)
    order = np.arange(4, 28, dtype=np.float32)
    ring_noise = (spokes[:, :1] * np.sin(order[:, None] * wheel + 2.4 * spokes[:, 1:])).sum(0) / 3.5
    around = np.arctan2(ey - gy, ex - gx) + 0.12 * np.sin(7 * r)
    fibre = ring_noise[(around * (255 / (2 * np.pi))).astype(np.int32) % 256]
    ring = np.exp(-0.5 * ((r - 0.52) / 0.12) ** 2)
    iris = (
        np.array(person.iris, np.float32) * (1.15 + 0.42 * np.clip(fibre, -1.6, 1.6) + 0.55 * ring)[..., None]
    )
    iris = iris + (ring * 0.5 * step(0.62, 0.4, r))[..., None] * np.array((0.07, 0.04, 0.0), np.float32)
    iris *= (1 - 0.72 * step(0.80, 0.98, r))[..., None]
    iris *= (1 - 0.97 * step(0.42, 0.36, r))[..., None]
    soft = aa / person.iris_size
    _lay(face, where, np.maximum(iris, 0.003), inside * step(1 + soft, 1 - soft, r))
    # The upper lid and its lashes shade the ball.
    roof = step(0.038, 0.0, high - ey)
    face.albedo[where] *= 1 - (0.62 * inside * roof)[..., None]
    face.gloss[where] = face.gloss[where] * (1 - inside) + 2.6 * inside
    radius = 0.105
    bx, by = side * ex / radius * 0.8 + 0.28 * side, ey / radius * 0.8
    ball = np.stack([bx, by, np.sqrt(np.maximum(1 - bx * bx - by * by, 0.08))], -1)
    face.ball[where] = ball
    face.ball_mask[where] = inside

    # Lashes: a dark edge, then hairs fanning out from it.
    lash = np.array(person.hair_colour, np.float32) * 0.35 + 0.004
    wing = step(1.12, 0.95, np.abs(t)) * step(-1.02, -0.6, t)
    edge = np.exp(-0.5 * ((ey - high) / 0.0085) ** 2) * wing
    _lay(face, where, lash, np.clip(0.95 * edge, 0, 1))
    reach = ey - high
    fan = (ex - 0.5 * reach * (0.4 + t)) / 0.0125
    hairs = 0.5 + 0.5 * np.cos(2 * np.pi * fan + 2.0 * np.sin(fan * 0.9 + person.seed % 7))
    length = 0.038 * (0.55 + 0.45 * np.clip(t, -1, 1))
    upper = hairs**1.5 * step(length, 0.0, reach) * step(-0.006, 0.002, reach) * wing
    _lay(face, where, lash, np.clip(0.8 * upper, 0, 1))
    drop = low - ey
    fan = (ex + 0.4 * drop * t) / 0.016
    hairs = 0.5 + 0.5 * np.cos(2 * np.pi * fan + 2.0 * np.sin(fan * 1.1))
    lower = hairs**2 * step(0.020, 0.0, drop) * step(-0.002, 0.003, drop) * wing
    _lay(face, where, lash, np.clip(0.45 * lower, 0, 1))

    name = "right" if side > 0 else "left"
    for label, u in (("inner", -w), ("outer", w)):
        face.points[f"{name}_eye_{label}"] = (cx + side * c * u, cy + s * u)
    look = (c * gx - s * gy, s * gx + c * gy)
    face.points[f"{name}_pupil"] = (cx + side * look[0], cy + look[1])


def _brow(face: Face, head: Head, person: Person, shot: Shot, side: int) -> None:
    lift = 0.035 * shot.brows
    cx = side * (person.eye_spacing + 0.015)
    cy = person.eye_height + person.brow_height + lift + side * 1.5 * person.skew
    where = head.window(cx, cy, 0.30)
    rng = np.random.default_rng((person.seed, 20 + side))
    dx, dy = side * (head.x[where] - cx), head.y[where] - cy
    t = dx / person.brow_length
    knit = -0.03 * max(0.0, -shot.brows) * step(0.0, -1.0, t)
    middle = person.brow_arch * (1 - ((t - 0.35) / 1.1) ** 2) + person.brow_tilt * dx + knit
    thick = person.brow_thick * np.clip(1.15 - 0.65 * np.clip(t, -1, 1) ** 2 - 0.35 * t, 0.15, 1.3)
    off = (dy - middle) / thick
    body = step(1.35, 0.35, np.abs(off)) * step(1.08, 0.75, t) * step(-1.12, -0.85, t)
    # Hairs run outwards and up at the inner end, outwards and down at the outer one.
    slant = 0.9 - 1.3 * step(-1.0, 0.9, t)
    across = dx - dy / np.where(np.abs(slant) < 0.15, 0.15, slant) * 0.6
    lines = noise(rng, 1, 4096, 2.0)[0]
    index = np.clip((across * 420).astype(np.int32) + 1000, 0, 4095)
    strand = lines[index] + 0.6 * noise(rng, dx.shape[0], dx.shape[1], 1.6)
    cover = np.clip(body * (0.62 + 0.42 * strand), 0, 0.96)
    colour = np.array(person.hair_colour, np.float32) * 0.65 + 0.006
    if max(person.hair_colour) > 0.3:
        colour = colour * 0.6
    _lay(face, where, colour, cover)
    face.bump[where] += 0.006 * body * (1 + 0.6 * strand)
    face.gloss[where] *= 1 - 0.6 * cover
    name = "right" if side > 0 else "left"
    face.points[f"{name}_brow"] = (cx, cy + person.brow_arch * 0.9)


def _mouth(face: Face, head: Head, person: Person, shot: Shot) -> None:
    rng = np.random.default_rng((person.seed, 31))
    cx, cy = person.skew, person.mouth_height
    where = head.window(cx, cy, 0.36)
    x, y = head.x[where] - cx, head.y[where] - cy
    aa = 1.2 / head.grid.density
    w = person.mouth_width * (1 + 0.18 * shot.smile - 0.10 * shot.mouth_open)
    t = x / w
    arc = np.maximum(1 - t * t, 0)
    curve = 0.055 * shot.smile * (np.minimum(t * t, 1.4) - 0.35) + 0.6 * person.skew * t
    gap = 0.16 * shot.mouth_open + 0.035 * max(0.0, shot.smile - 0.55) * 2
    thin = 1 - 0.22 * max(0.0, shot.smile)
    top = curve + 0.30 * gap * arc**0.8
    bottom = curve - 0.70 * gap * arc**0.7
    bow = person.lip_bow * (blob(t, t, 0.22, 0.22, 0.12, 9) + blob(t, t, -0.22, -0.22, 0.12, 9))
    bow = bow - 1.2 * person.lip_bow * blob(t, t, 0, 0, 0.09, 9)
    high = top + (person.lip_upper * thin * arc**0.75 + bow * arc)
    low = bottom - person.lip_lower * thin * arc**0.62
    across = step(1.0 + aa, 1.0 - 2 * aa, np.abs(t))
    soft = 2.2 * aa
    lips = step(-soft, soft, high - y) * step(-soft, soft, y - low) * across
    hole = step(-aa, aa, top - y) * step(-aa, aa, y - bottom) * across * float(gap > 0.006)
    fold = noise(
        rng,
        x.shape[0],
        x.shape[1],
        (max(0.05 * head.grid.density, 1), max(0.014 * head.grid.density, 1)),
    )
    fold += 0.6 * noise(rng, x.shape[0], x.shape[1], 1.5)

    middle = (top + bottom) / 2
    plump = np.where(
        y > middle,
        (y - top) / np.maximum(high - top, 0.01),
        (bottom - y) / np.maximum(bottom - low, 0.01),
    )
    plump = np.clip(plump, 0, 1)
    relief = np.sqrt(np.maximum(4 * plump * (1 - plump), 0)) * lips * (1 - hole)
    face.radius[where] += 0.024 * relief - 0.010 * hole
    face.bump[where] += lips * (0.0022 * fold)
    seam = np.exp(-0.5 * ((y - middle) / 0.008) ** 2) * step(1.10, 0.9, np.abs(t))
    face.bump[where] -= 0.012 * seam * (1 - hole)
    colour = np.array(person.lip_colour, np.float32) * (1 + 0.10 * fold - 0.15 * (y > middle))[..., None]
    _lay(face, where, colour, 0.88 * lips)
    face.gloss[where] = face.gloss[where] * (1 - lips) + lips * (0.75 + 0.2 * fold)
    face.albedo[where] *= 1 - (0.72 * seam * (1 - hole) * across)[..., None]
    corner = blob(np.abs(t), y, 1.0, float(0.055 * shot.smile * 0.65), 0.09, 0.022)
    face.albedo[where] *= 1 - (0.40 * corner)[..., None]
    if gap > 0.006:
        _lay(face, where, (0.055, 0.012, 0.012), hole)
        tongue = hole * step(0.6, 1.0, (top - y) / gap) * step(0.8, 0.3, np.abs(t))
        _lay(face, where, (0.30, 0.08, 0.08), 0.8 * tongue)
        pitch = 0.062
        bend = np.sign(x) * np.abs(x) ** 1.08
        place = (
            np.abs((bend / pitch) % 1.0 - 0.5) * 2
            if not person.tooth_gap
            else np.abs(
                (np.sign(bend) * np.maximum(np.abs(bend) - person.tooth_gap, 0) / pitch + 0.0) % 1.0 - 0.5
            )
            * 2
        )
        teeth_low = top - 0.058 * (1 - 0.2 * np.abs(t)) - 0.006 * place**4 * -1
        teeth = hole * step(-aa, aa, y - teeth_low) * step(0.92, 0.80, np.abs(t))
        cut = step(0.80, 0.97, place)
        if person.tooth_gap:
            cut = np.maximum(cut, step(person.tooth_gap + aa, person.tooth_gap - aa, np.abs(x)))
        white = np.array((0.70, 0.66, 0.57), np.float32) * (1 - 0.45 * np.clip(t * t, 0, 1))[..., None]
        white *= (1 - 0.65 * cut)[..., None]
        white *= (0.55 + 0.45 * step(0.0, 0.03, top - y))[..., None]
        _lay(face, where, white, teeth)
        face.gloss[where] = face.gloss[where] * (1 - hole) + 0.9 * teeth
    # Folds from the nose to the mouth deepen with age and with a smile.
    depth = 0.30 * person.age + 0.75 * max(0.0, shot.smile)
    ax, ay = np.abs(head.x[where] - person.skew), head.y[where]
    nose = person.nose_width
    path = [
        (nose + 0.035, -0.29),
        (nose + 0.11, -0.40),
        (w + 0.085, cy + 0.05),
        (w + 0.09, cy - 0.05),
    ]
    line = stroke(ax, ay, path, 0.014)
    face.bump[where] -= 0.014 * depth * line
    face.albedo[where] *= 1 - (0.20 * depth * line)[..., None]
    face.radius[where] += 0.035 * max(0.0, shot.smile) * blob(ax, ay, w + 0.14, -0.34, 0.09, 0.10)
    edge = 0.055 * shot.smile * 0.65
    face.points["left_mouth"] = (cx - w, cy + edge - 0.6 * person.skew)
    face.points["right_mouth"] = (cx + w, cy + edge + 0.6 * person.skew)
    face.points["upper_lip"] = (
        cx,
        float(cy - 0.019 * shot.smile + 0.3 * gap + person.lip_upper * thin),
    )
    face.points["lower_lip"] = (
        cx,
        float(cy - 0.019 * shot.smile - 0.7 * gap - person.lip_lower * thin),
    )


def paint_face(head: Head, person: Person, shot: Shot) -> Face:
    """The head of `person` with the expression of `shot`."""
    face = Face(
        radius=head.radius.copy(),
        bump=head.bump.copy(),
        gloss=head.gloss.copy(),
        albedo=head.albedo.copy(),
        ball=np.zeros_like(head.albedo),
        ball_mask=np.zeros_like(head.radius),
        points={},
    )
    for side in (-1, 1):
        _eye(face, head, person, shot, side)
        _brow(face, head, person, shot, side)
    _mouth(face, head, person, shot)
    return face
