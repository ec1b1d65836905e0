"""Hair: a shell over the head and its strands; long hair hangs from the temples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .fields import Field, ridge, step
from .head import Head
from .person import Person
from .shot import Shot

# Hair longer than this covers the ears and hangs.
HANGS = 0.45


@dataclass(frozen=True, eq=False)
class Hair:
    """Maps over the atlas: `cover`, `thick`, `relief`, `strand` [S,S], `colour` [3,S,S] linear.

    `crown` is the direction [3] the strands run from; `strand` is their brightness, about 0.
    """

    cover: Field
    thick: Field
    relief: Field
    strand: Field
    colour: NDArray[Any]
    crown: NDArray[Any]


def _volume(person: Person, shot: Shot) -> float:
    """How far the hair stands off the crown, in half head heights."""
    body = shot.hair_volume * (0.12 + 0.88 * min(1.0, 2.0 * shot.hair_length))
    return (0.02 + body) * (1 + 0.35 * person.hair_curl)


def girth(person: Person, shot: Shot) -> tuple[float, float]:
    """Half width and half depth of hanging hair, in half head heights."""
    puff = 0.04 + _volume(person, shot) * (0.45 + 0.35 * shot.hair_length)
    return person.head_width + puff, 1.04 * person.head_depth + puff


def _comb(head: Head, person: Person, shot: Shot) -> tuple[Field, Field, NDArray[Any]]:
    """The strands' brightness, the distance from the crown and the crown's direction."""
    grid, sheet = head.grid, head.strands
    crown = np.array([shot.hair_part, 0.92, -0.12 - 0.25 * (1 - abs(shot.hair_part))], np.float32)
    crown /= np.linalg.norm(crown)
    e1 = np.cross(crown, np.array([0, 0, 1], np.float32))
    e1 /= np.linalg.norm(e1)
    axes = np.stack([crown, e1, np.cross(crown, e1)]).astype(np.float32)
    up, one, two = (axes @ grid.direction.reshape(3, -1)).reshape(3, grid.size, grid.size)
    # The chord from the crown stands in for the angle: cheaper, and strands only need an order.
    along = np.sqrt(np.maximum(2 - 2 * up, 0))
    curl = np.float32(person.hair_curl)
    azimuth = cv2.phase(one, two)
    sway = along * np.float32(9 + 12 * person.hair_curl)
    sway += 1.6 * head.wave
    azimuth += (0.025 + 0.03 * shot.hair_length) * curl * np.sin(sway)
    azimuth += np.float32(0.03) * head.wave
    azimuth *= np.float32(1 / (2 * np.pi))
    azimuth -= np.floor(azimuth)
    azimuth *= np.float32(sheet.shape[1] - 1)
    down = along * np.float32((sheet.shape[0] - 1) / 2)
    return cv2.remap(sheet, azimuth, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), along, crown


def _depth(head: Head, person: Person, shot: Shot) -> Field:
    """How far behind the hair line each texel lies (chords of the unit sphere)."""
    grid, few = head.grid, 4
    turn, rho = grid.turn[::few, ::few], grid.rho[::few, ::few]
    # 0 to either side, pi / 2 up, -pi / 2 down: the same line left and right.
    angle = np.arcsin(np.clip(np.sin(turn), -1, 1))
    fringe = person.hair_line - 0.34 * shot.hair_fringe
    temple = person.hair_temple
    table_x = (-1.6, -0.75, -0.35, -0.1, 0.12, 0.35, 0.7, 1.1, 1.6)
    table_y = (2.5, 2.5, 2.3, 1.62, 1.45, 1.05, 0.96 + temple - 0.15 * shot.hair_fringe,
               fringe + 0.12 + 0.9 * temple, fringe + 0.02)  # fmt: skip
    depth = rho - np.interp(angle, table_x, table_y)
    # A fringe is swept to the side of the parting.
    depth += (0.7 * shot.hair_part * shot.hair_fringe) * grid.direction[0, ::few, ::few]
    if shot.hair_length > HANGS:
        # Hair that hangs starts at an angle about the vertical, in front of the ears.
        x, y, z = (plane[::few, ::few] for plane in grid.direction)
        hang = np.arctan2(np.abs(x), z + 0.25) - 1.17
        depth = np.maximum(depth, np.minimum(hang, 0.9 * (0.50 - y)))
    depth = cv2.resize(depth.astype(np.float32), (grid.size, grid.size), interpolation=cv2.INTER_LINEAR)
    if shot.hair_length <= HANGS:
        depth -= np.float32(2.5) * step(0.0, 0.03, head.ear)
    return depth


def grow(head: Head, person: Person, shot: Shot) -> Hair:
    """The person's hair in the style of `shot`."""
    long = shot.hair_length
    d = head.grid.direction
    strand, along, crown = _comb(head, person, shot)
    calm = _depth(head, person, shot)
    loose = 0.030 + 0.03 * shot.hair_fringe
    cover = calm + np.float32(loose) * np.clip(strand, -1.5, 1.5) + np.float32(0.02) * head.wave
    cover = step(-0.01, 0.085 - 0.04 * shot.hair_fringe, cover)
    volume = _volume(person, shot)
    # The shell itself is smooth: a ray meets it in a few steps. Strands live in its normals.
    thick = step(-0.02, 0.42, calm)
    thick *= volume + (0.10 * volume) * head.wave
    thick += 0.010 * step(-0.06, 0.10, calm)
    thick *= 1 - 0.3 * ridge(along, 0.11)
    # Sides lie closer than the top, above all when short; under the ears hair only clings to the
    # head: what hangs beside the neck stands behind it (see `body`).
    thick *= (0.40 + 0.35 * long) + (0.60 - 0.35 * long) * step(0.1, 0.75, d[1])
    thick -= step(0.0, 0.08, calm) * head.ear
    if long > HANGS:
        clinging = 0.03 * step(0.0, 0.15, calm)
        thick += step(0.20, -0.50, d[1]) * (clinging - thick)
    relief = np.float32(0.0030 + 0.002 * person.hair_curl) * np.clip(strand, -2, 2)
    relief *= cover
    grey = np.clip(person.grey + 0.5 * person.grey * strand, 0, 1)
    tone = np.exp(np.float32(0.28) * np.clip(strand, -2.2, 2.0))
    colour = np.stack([tone * (c + grey * np.float32(0.42 - c)) for c in person.hair_colour])
    return Hair(cover, thick, relief, strand, colour, crown)
