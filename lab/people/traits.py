"""Traits: what makes a person, named, in groups that a test of likeness can report apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GROUPS = ("colour", "geometry", "marks")

# Every other field of `Person` but its seed is geometry.
COLOUR = ("skin", "ruddy", "iris", "lip_colour", "hair_colour", "grey")
MARKS = (
    "moles", "scar", "scar_width", "freckles", "tooth_gap", "age", "skin_rough", "beard", "beard_style",
    "glasses", "glasses_colour",
)  # fmt: skip


@dataclass(frozen=True)
class Trait:
    """One named trait of a person: `group` is one of GROUPS, `value` the person's field."""

    name: str
    group: str
    value: Any


def group_of(name: str) -> str:
    """The group of the `Person` field `name`."""
    return "colour" if name in COLOUR else "marks" if name in MARKS else "geometry"
