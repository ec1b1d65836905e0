"""Captions of drawn people, so that a U-Net trained on them learns what words mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from . import Person

VIEWS = ("a photo of {}", "a portrait of {}", "a close-up photo of {}", "a good photo of {}", "{}")
SCENES = ("a photo of a texture", "overlapping shapes", "an abstract pattern", "a photo of things")
HAIR = {
    "black": (0.012, 0.010, 0.010),
    "brown": (0.085, 0.045, 0.022),
    "blond": (0.45, 0.31, 0.15),
    "red": (0.26, 0.07, 0.02),
    "grey": (0.42, 0.41, 0.40),
}
EYES = {"brown": (0.15, 0.07, 0.03), "green": (0.14, 0.20, 0.10), "blue": (0.18, 0.27, 0.36)}
SKIN = {"fair": 0.5, "tan": 0.3, "brown": 0.15, "dark": 0.0}
"""Lowest green value of each."""


def caption(person: Person, rng: np.random.Generator) -> str:
    """Some of a person's traits in words, such as "a portrait of an old person with curly red hair"."""
    tone = next(name for name, lowest in SKIN.items() if person.skin[1] >= lowest)
    curl = "curly " if person.hair_curl > 0.5 else ""
    hair = "grey" if person.grey > 0.3 else _nearest(person.hair_colour, HAIR)
    traits = [
        f"{tone} skin",
        f"{curl}{hair} hair",
        f"{_nearest(person.iris, EYES)} eyes",
        *(["a beard"] if person.beard else []),
        *(["freckles"] if person.freckles else []),
        *([f"{person.glasses} glasses"] if person.glasses else []),
        *(["a scar"] if person.scar else []),
    ]
    told = [trait for trait in traits if rng.random() < 0.6]
    age = rng.choice(["", "an old " if person.age > 0.6 else "a young " if person.age < 0.2 else ""])
    who = f"{age or 'a '}person"
    if told:
        who += " with " + " and ".join(filter(None, [", ".join(told[:-1]), told[-1]]))
    return str(rng.choice(VIEWS)).format(who)


def _nearest(colour: tuple[float, float, float], named: dict[str, tuple[float, float, float]]) -> str:
    """By logarithms, because these colours are linear light and dark ones have to be told apart."""
    return min(named, key=lambda name: float(np.square(np.log(colour) - np.log(named[name])).sum()))
