"""Person: the traits that make an identity, and their random draw."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from .traits import Trait, group_of

Colour = tuple[float, float, float]
Spot = tuple[float, float, float]

_SKINS: tuple[Colour, ...] = (
    (0.76, 0.55, 0.44), (0.72, 0.50, 0.38), (0.63, 0.42, 0.30), (0.52, 0.32, 0.21),
    (0.38, 0.22, 0.14), (0.25, 0.14, 0.09), (0.15, 0.085, 0.058),
)  # fmt: skip
_IRISES: tuple[Colour, ...] = (
    (0.10, 0.045, 0.02), (0.17, 0.08, 0.03), (0.22, 0.15, 0.06),
    (0.14, 0.20, 0.10), (0.14, 0.24, 0.36), (0.28, 0.34, 0.38),
)  # fmt: skip
_HAIRS: tuple[Colour, ...] = (
    (0.012, 0.010, 0.010), (0.035, 0.020, 0.012), (0.085, 0.045, 0.022), (0.17, 0.09, 0.04),
    (0.36, 0.22, 0.10), (0.50, 0.36, 0.19), (0.26, 0.07, 0.02), (0.42, 0.41, 0.40),
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """An identity. Lengths in half head heights, colours linear RGB in [0, 1], angles in rad.

    `seed` fixes the skin's texture. Marks (`moles`: x, y, radius; `scar`: polyline) lie in the
    front view of the head, x to the right of the picture and y up. `skew` bends the nose, the mouth
    and the brows to one side.
    """

    seed: int
    head_width: float
    head_depth: float
    jaw_taper: float
    jaw_square: float
    chin_length: float
    chin_forward: float
    cheekbone: float
    cheek_full: float
    forehead: float
    brow_ridge: float
    eye_spacing: float
    eye_height: float
    eye_width: float
    eye_open: float
    eye_tilt: float
    eye_depth: float
    lid_crease: float
    iris: Colour
    iris_size: float
    brow_height: float
    brow_arch: float
    brow_tilt: float
    brow_thick: float
    brow_length: float
    nose_length: float
    nose_width: float
    nose_bridge: float
    nose_tip: float
    nose_hump: float
    mouth_height: float
    mouth_width: float
    lip_upper: float
    lip_lower: float
    lip_bow: float
    lip_colour: Colour
    tooth_gap: float
    ear_size: float
    ear_flare: float
    hair_line: float
    hair_temple: float
    hair_colour: Colour
    hair_curl: float
    grey: float
    skin: Colour
    skin_rough: float
    ruddy: float
    age: float
    freckles: float
    beard: float
    beard_style: str
    moles: tuple[Spot, ...]
    scar: tuple[tuple[float, float], ...]
    scar_width: float
    glasses: str
    glasses_colour: Colour
    skew: float

    def traits(self) -> tuple[Trait, ...]:
        """Every trait with its group (one of `traits.GROUPS`), in the order of the fields."""
        return tuple(
            Trait(field.name, group_of(field.name), getattr(self, field.name))
            for field in fields(self)
            if field.name != "seed"
        )


def draw_person(rng: np.random.Generator) -> Person:
    """A random identity. Equal generator states give equal persons."""

    def about(mean: float, spread: float) -> float:
        return float(mean + spread * np.clip(rng.standard_normal(), -2.2, 2.2))

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def colour(base: Colour, spread: float) -> Colour:
        r, g, b = (float(np.clip(c * np.exp(about(0, spread)), 0.004, 0.9)) for c in base)
        return r, g, b

    tone = between(0, len(_SKINS) - 1.001)
    low = int(tone)
    first, second = np.array(_SKINS[low]), np.array(_SKINS[low + 1])
    base = first + (tone - low) * (second - first)
    skin = colour((base[0], base[1], base[2]), 0.05)
    dark = tone / len(_SKINS)
    # Fair hair and eyes are rare on dark skin; the draw follows that so that pictures look natural.
    iris = _IRISES[int(len(_IRISES) * between(0, 1) * (1 - dark) ** 0.8)]
    hair = _HAIRS[int(len(_HAIRS) * between(0, 1) * (1 - dark) ** 1.2)]
    masculine = between(0, 1)
    lip = np.array(skin) * (0.88, 0.56, 0.60) + between(0, 0.06) * np.array((1.0, 0.1, 0.2))
    age = between(0, 1) ** 1.5
    eye_spacing, eye_height = about(0.305, 0.022), about(0.04, 0.025)
    mouth_height, nose_width = about(-0.575, 0.028), about(0.135, 0.024)

    def bare(x: float, y: float) -> bool:
        """Whether a mark at (x, y) would be seen: not on an eye, a brow, the lips or the nose's ridge."""
        eye = abs(abs(x) - eye_spacing) < 0.22 and -0.09 < y - eye_height < 0.26
        mouth = abs(x) < 0.34 and abs(y - mouth_height) < 0.12
        nostril = abs(x) < nose_width + 0.03 and -0.46 < y < -0.30
        bridge = abs(x) < 0.13 and -0.30 < y < 0.34
        return not (eye or mouth or nostril or bridge)

    def place() -> tuple[float, float]:
        while True:
            x, y = between(-0.5, 0.5), between(-0.78, 0.42)
            if bare(x, y) and np.hypot(x / 0.58, y / 0.85) < 1:
                return x, y

    moles = tuple((*place(), between(0.013, 0.025)) for _ in range(min(int(rng.poisson(1.5)), 5)))
    scar: tuple[tuple[float, float], ...] = ()
    if rng.random() < 0.22:
        x, y = place()
        a, bend, span = between(0, np.pi), about(0, 0.03), between(0.08, 0.15)
        scar = tuple(
            (x + k * span * float(np.cos(a)) + bend * (1 - k * k), y + k * span * float(np.sin(a)))
            for k in (-1.0, -0.5, 0.0, 0.5, 1.0)
        )
    bearded = masculine > 0.5 and rng.random() < 0.6
    return Person(
        seed=int(rng.integers(2**31)),
        head_width=about(0.705, 0.042),
        head_depth=about(0.88, 0.03),
        jaw_taper=about(0.31 - 0.13 * masculine, 0.07),
        jaw_square=about(2.3 + 0.45 * masculine, 0.2),
        chin_length=about(1.03, 0.055),
        chin_forward=about(0.05, 0.03),
        cheekbone=about(0.035, 0.018),
        cheek_full=about(0.0, 0.03),
        forehead=about(0.0, 0.025),
        brow_ridge=about(0.02 + 0.025 * masculine, 0.01),
        eye_spacing=eye_spacing,
        eye_height=eye_height,
        eye_width=about(0.152, 0.012),
        eye_open=about(0.062, 0.010),
        eye_tilt=about(0.06, 0.08),
        eye_depth=about(0.05, 0.018),
        lid_crease=about(0.036, 0.014),
        iris=colour(iris, 0.10),
        iris_size=about(0.064, 0.003),
        brow_height=about(0.170, 0.024),
        brow_arch=about(0.035, 0.022),
        brow_tilt=about(-0.02, 0.09),
        brow_thick=about(0.026 + 0.012 * masculine, 0.008),
        brow_length=about(0.21, 0.015),
        nose_length=about(0.36, 0.035),
        nose_width=nose_width,
        nose_bridge=about(0.10, 0.025),
        nose_tip=about(0.165, 0.025),
        nose_hump=about(0.0, 0.022),
        mouth_height=mouth_height,
        mouth_width=about(0.235, 0.026),
        lip_upper=about(0.055, 0.014),
        lip_lower=about(0.075, 0.016),
        lip_bow=about(0.012, 0.006),
        lip_colour=(float(lip[0]), float(lip[1]), float(lip[2])),
        tooth_gap=between(0.007, 0.016) if rng.random() < 0.25 else 0.0,
        ear_size=about(1.0, 0.10),
        ear_flare=about(1.0, 0.25),
        hair_line=about(0.64, 0.06),
        hair_temple=about(0.0, 0.06) + 0.12 * age * masculine,
        hair_colour=colour(hair, 0.07),
        hair_curl=between(0, 1) ** 1.5,
        grey=max(0.0, age - 0.5) * between(0, 1.2),
        skin=skin,
        skin_rough=between(0.4, 1.4),
        ruddy=between(0.2, 1.2),
        age=age,
        freckles=between(0.3, 1.0) if rng.random() < 0.3 * (1.2 - dark) else 0.0,
        beard=between(0.15, 1.0) if bearded else 0.0,
        beard_style=str(rng.choice(["full", "full", "goatee", "moustache"])) if bearded else "",
        moles=moles,
        scar=scar,
        scar_width=between(0.008, 0.014),
        glasses=str(rng.choice(["", "round", "square", "oval"], p=(0.67, 0.11, 0.11, 0.11))),
        glasses_colour=colour(
            ((0.02, 0.02, 0.02), (0.12, 0.05, 0.02), (0.35, 0.33, 0.32))[int(rng.integers(3))], 0.2
        ),
        skew=about(0.0, 0.012),
    )
