"""Mouth: lips, teeth, tongue and the folds beside them."""

from __future__ import annotations

import cv2
import numpy as np

from .face import Face
from .fields import blob, lay, mound, noise_over, ridge, step, stroke, tint
from .head import Head
from .jaw import Jaw
from .person import Person
from .shot import Shot


def _teeth(smile: float) -> float:
    """How far a smile bares the teeth, in half head heights."""
    return 0.085 * max(0.0, smile - 0.45)


def paint_lips(face: Face, head: Head, person: Person, shot: Shot, jaw: Jaw) -> None:
    """Paint the lips of the closed head, parted only by a smile, and name the mouth's points."""
    rng = np.random.default_rng((person.seed, 31))
    cx, cy, w = jaw.x, jaw.y, jaw.wide
    smile = max(0.0, shot.smile)
    where = head.window(cx, cy, 0.33, 0.16, 0.24)
    x, y = head.x[where] - cx, head.y[where] - cy
    albedo, bump, gloss = face.albedo[(slice(None), *where)], face.bump[where], face.gloss[where]
    unit = head.grid.density
    aa = 1.2 / unit
    t = x / w
    arc = np.maximum(1 - t * t, 0)
    line = jaw.line(head.x[where])
    shown = _teeth(shot.smile)
    thin = 1 - 0.22 * smile
    top, bottom = line + 0.6 * shown * arc**0.8, line - 0.4 * shown * arc**0.7
    bow = blob(np.abs(t), t, 0.22, 0, 0.12, 9) - 1.2 * blob(t, t, 0, 0, 0.09, 9)
    high = top + person.lip_upper * thin * arc**0.75 + person.lip_bow * bow * arc
    low = bottom - person.lip_lower * thin * arc**0.62
    across = step(1.0 + aa, 1.0 - 2 * aa, np.abs(t))
    soft = 2.2 * aa
    lips = step(-soft, soft, high - y) * step(-soft, soft, y - low) * across
    fold = noise_over(rng, x, (max(0.05 * unit, 2.0), max(0.016 * unit, 1.5)))
    fold += 0.5 * noise_over(rng, x, 1.6)
    upper = (y > line).astype(np.float32)
    above = (y - top) / np.maximum(high - top, 0.01)
    below = (bottom - y) / np.maximum(bottom - low, 0.01)
    plump = np.clip(below + upper * (above - below), 0, 1)
    face.radius[where] += 0.028 * np.sqrt(4 * plump * (1 - plump)) * lips
    seam = ridge(y - line, 0.008) * step(1.10, 0.9, np.abs(t))
    bump += lips * (0.0015 * fold) - 0.012 * seam
    tone = 1 + 0.07 * fold - 0.15 * upper
    lay(albedo, [c * tone for c in person.lip_colour], 0.88 * lips)
    gloss += lips * (0.75 + 0.15 * fold - gloss)
    corner = blob(np.abs(t), y, 1.0, jaw.rise * 0.65, 0.09, 0.022)
    albedo *= (1 - 0.70 * seam * across) * (1 - 0.40 * corner)

    # Folds from the nose to the mouth deepen with age and with a smile.
    depth = 0.30 * person.age + 0.60 * smile
    wing = person.nose_width
    path = [(wing + 0.035, -0.29), (wing + 0.11, -0.40), (w + 0.085, cy + 0.05), (w + 0.09, cy - 0.05)]
    groove = depth * stroke(np.abs(x), head.y[where], path, 0.016)
    bump -= 0.012 * groove
    tint(albedo, groove, (-0.15, -0.19, -0.18))
    for side in (-1, 1):
        cheek = head.window(side * (w + 0.14), -0.34, 0.17, 0.17, 0.17)
        lift = mound(head.x[cheek], head.y[cheek], side * (w + 0.14), -0.34, 0.19, 0.20)
        face.radius[cheek] += 0.035 * smile * lift
    middle, end = cy - 0.35 * jaw.rise, cy + 0.65 * jaw.rise
    for name, place in (
        ("left_mouth", (cx - w, end - jaw.tilt)),
        ("right_mouth", (cx + w, end + jaw.tilt)),
        ("upper_lip", (cx, middle + 0.6 * shown + person.lip_upper * thin - 0.2 * person.lip_bow)),
        ("lower_lip", (cx, middle - 0.4 * shown - person.lip_lower * thin)),
    ):
        face.points[name] = place


def open_mouth(face: Face, head: Head, person: Person, shot: Shot, jaw: Jaw) -> None:
    """Paint what shows between the lips once the jaw has moved."""
    shown = _teeth(shot.smile)
    if shown + jaw.gap < 0.008:
        return
    where = head.window(jaw.x, jaw.y, 0.25, 0.10 + 1.1 * jaw.gap, 0.12)
    x, y = head.x[where], head.y[where]
    albedo, gloss = face.albedo[(slice(None), *where)], face.gloss[where]
    aa = 1.2 / head.grid.density
    a = np.linspace(-1, 1, 13)
    line, arc = jaw.line(jaw.x + jaw.wide * a), 1 - a * a
    # Between these edges lies the skin that was stretched as the lips parted.
    part = 0.020 * min(1.0, jaw.gap / 0.04)
    edges = [line + (0.6 * shown + part) * arc**0.8, line - (0.4 * shown + part) * arc**0.7]
    places = [(jaw.x + jaw.wide * u, jaw.y + v) for edge in edges for u, v in zip(a, edge, strict=True)]
    at = np.rint(jaw.carry(head, face.closed, head.column_row(places))).astype(int)
    ends = head.front[:, at[:, 1], at[:, 0]]
    top, bottom = (np.interp(x, *ends[:, part]).astype(np.float32) for part in (np.s_[:13], np.s_[13:]))
    t = (x - jaw.x) / jaw.wide
    span = np.abs(t)
    hole = step(-aa, aa, top - y) * step(-aa, aa, y - bottom) * step(1.0 + aa, 1.0 - 2 * aa, span)
    below = top - y
    # The surface there is stretched skin; teeth and tongue are smooth.
    radius = face.radius[where]
    radius += hole * (cv2.GaussianBlur(radius, (0, 0), 0.04 * head.grid.density) - 0.015 - radius)
    face.bump[where] *= 1 - hole
    lay(albedo, (0.050, 0.010, 0.010), hole)
    tongue = step(0.45, 0.95, below / (shown + jaw.gap)) * step(0.85, 0.3, span) * step(0.06, 0.10, below)
    lay(albedo, (0.30, 0.085, 0.085), 0.8 * hole * tongue)
    # Teeth are counted from the middle, which a gap moves apart.
    beside = np.maximum(np.abs(x - jaw.x) - person.tooth_gap, 0) / 0.062
    place = np.abs(beside - np.floor(beside) - 0.5) * 2
    teeth = hole * step(-aa, aa, 0.062 * (1 - 0.55 * t * t) - 0.006 * place**4 - below)
    teeth *= step(0.90, 0.62, span)
    cut = 0.5 * step(0.82, 0.98, place)
    if person.tooth_gap:
        cut = np.maximum(cut, 0.94 * step(person.tooth_gap + aa, person.tooth_gap - aa, np.abs(x - jaw.x)))
    shade = (1 - 0.7 * np.clip(t * t, 0, 1)) * (1 - cut) * (0.50 + 0.50 * step(0.0, 0.03, below))
    lay(albedo, [c * shade for c in (0.66, 0.62, 0.53)], teeth)
    gloss *= 1 - hole
    gloss += 0.8 * teeth
