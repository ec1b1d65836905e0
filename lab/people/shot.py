"""Shot: everything about a photo that is not the person, and its random draw."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

Colour = tuple[float, float, float]

BACKGROUNDS = ("studio", "gradient", "leaves", "bokeh", "stripes", "wood", "cloth")


@dataclass(frozen=True)
class Shot:
    """One photo's circumstances.

    Angles in degrees: `yaw` > 0 turns the nose to the right of the picture, `pitch` > 0 lifts
    it, `roll` > 0 tilts the head's top to the left. `fill` is the head's height as a part of the
    frame, `shift` the head's centre off the frame's centre as a part of the frame (x right, y
    down), `distance` the camera's in half head heights. Expressions and openings in [0, 1]
    (`smile`, `brows` in [-1, 1]); `gaze` in iris radii; light directions are vectors towards the
    light (x right, y up, z to the camera); colours linear RGB.
    """

    seed: int
    yaw: float
    pitch: float
    roll: float
    fill: float
    shift: tuple[float, float]
    distance: float
    smile: float
    mouth_open: float
    eyes_open: float
    brows: float
    gaze: tuple[float, float]
    light: Colour
    light_colour: Colour
    light_strength: float
    ambient: float
    rim: float
    exposure: float
    contrast: float
    background: str
    background_blur: float
    hair_length: float
    hair_volume: float
    hair_fringe: float
    hair_part: float
    clothes: Colour
    clothes_pattern: int


def draw_shot(rng: np.random.Generator, **overrides: Any) -> Shot:
    """A random shot; `overrides` replaces fields by name.

    Raises:
        TypeError: an override that is no field of `Shot`.
    """
    known = {field.name for field in fields(Shot)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise TypeError(f"draw_shot: no such field {unknown}; the fields are {sorted(known)}")

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    fill = between(0.35, 0.9)
    room = max(0.0, (0.96 - fill) / 2)
    warm = between(-1, 1)
    side = between(-1.1, 1.1)
    rise = between(-0.15, 1.0)
    cloth = rng.uniform(0.02, 0.6) * np.clip(1 + 0.6 * rng.standard_normal(3), 0.15, 1.6)
    shot = Shot(
        seed=int(rng.integers(2**31)),
        yaw=float(np.clip(rng.normal(0, 21), -45, 45)),
        pitch=float(np.clip(rng.normal(0, 8), -20, 20)),
        roll=float(np.clip(rng.normal(0, 7), -25, 25)),
        fill=fill,
        shift=(room * between(-0.8, 0.8), room * between(-0.8, 0.6)),
        distance=between(5.0, 12.0),
        smile=float(np.clip(rng.normal(0.25, 0.45), -0.6, 1.0)),
        mouth_open=max(0.0, between(-0.8, 1.0)),
        eyes_open=float(np.clip(rng.normal(0.95, 0.15), 0.08, 1.15)),
        brows=float(np.clip(rng.normal(0.15, 0.35), -1, 1)),
        gaze=(float(np.clip(rng.normal(0, 0.3), -0.7, 0.7)),
              float(np.clip(rng.normal(0, 0.15), -0.35, 0.35))),
        light=(side, rise, between(0.35, 1.0)),
        light_colour=(1.0 + 0.14 * warm, 1.0, 1.0 - 0.2 * warm),
        light_strength=between(0.75, 1.5),
        ambient=between(0.15, 0.6),
        rim=max(0.0, between(-0.8, 0.8)),
        exposure=between(0.85, 1.25),
        contrast=between(0.92, 1.12),
        background=str(rng.choice(BACKGROUNDS)),
        background_blur=between(0, 1),
        hair_length=between(0, 1),
        hair_volume=between(0.05, 0.2),
        hair_fringe=max(0.0, between(-1.2, 1.0)),
        hair_part=between(-0.4, 0.4),
        clothes=(float(min(cloth[0], 0.8)), float(min(cloth[1], 0.8)), float(min(cloth[2], 0.8))),
        clothes_pattern=int(rng.integers(4)),
    )  # fmt: skip
    return replace(shot, **overrides)
