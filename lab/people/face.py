"""Face: the head's maps in one photo, on which eyes, brows and mouth are painted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from .fields import Field
from .jaw import Jaw

Window = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Face:
    """The head's maps in one photo: `radius`, `bump`, `gloss` [S,S], `albedo` [3,S,S].

    `closed` [S,S] is the radius before the `jaw` moved. `balls` are the eyes: a window of the map,
    the part of it that is open, and the normals [3,h,w] there. `points` are named front points
    (x, y) of the closed head; `shut` names those that a lid covers.
    """

    jaw: Jaw
    radius: Field
    closed: Field
    bump: Field
    gloss: Field
    albedo: NDArray[Any]
    balls: list[tuple[Window, Field, NDArray[Any]]] = field(default_factory=list)
    points: dict[str, tuple[float, float]] = field(default_factory=dict)
    shut: set[str] = field(default_factory=set)
