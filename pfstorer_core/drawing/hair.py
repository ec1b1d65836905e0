"""Hair: a shell over the head, its strands, and the locks that fall behind the neck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .fields import Field, step
from .head import Head
from .person import Person
from .shot import Shot


@dataclass(frozen=True, eq=False)
class Hair:
    """Maps over the atlas: `cover` and `thick` [S,S], `colour` [S,S,3] linear, `relief` [S,S].

    `crown` is the direction [3] the strands run from; `strand` [S,S] their brightness, about 0.
    """

    cover: Field
    thick: Field
    relief: Field
    strand: Field
    colour: NDArray[Any]
    crown: NDArray[Any]


def grow(head: Head, person: Person, shot: Shot) -> Hair:
    """The person's hair in the style of `shot`."""
    grid = head.grid
    long = shot.hair_length
    crown = np.array([shot.hair_part, 0.92, -0.12 - 0.25 * (1 - abs(shot.hair_part))], np.float32)
    crown /= np.linalg.norm(crown)
    e1 = np.cross(crown, np.array([0, 0, 1], np.float32))
    e1 /= np.linalg.norm(e1)
    axes = np.stack([crown, e1, np.cross(crown, e1)]).astype(np.float32)
    up, one, two = (axes @ grid.direction.reshape(3, -1)).reshape(3, grid.size, grid.size)
    # The chord from the crown stands in for the angle: cheaper, and strands only need an order.
    along = np.sqrt(np.maximum(2 - 2 * up, 0))
    wave, sheet = head.wave, head.strands
    curl = person.hair_curl * (0.03 + 0.05 * long)
    azimuth = cv2.phase(one, two)
    azimuth += curl * np.sin(along * np.float32(9 + 14 * person.hair_curl) + 1.6 * wave)
    azimuth += 0.03 * wave
    strand = cv2.remap(
        sheet,
        np.mod(azimuth, np.float32(2 * np.pi)) * np.float32((sheet.shape[1] - 1) / (2 * np.pi)),
        along * np.float32((sheet.shape[0] - 1) / 2),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )

    # The hairline: polar distance from the front of the face, by polar angle (0 = to the side).
    turn = grid.turn[::4, ::4]
    # 0 to either side, pi / 2 up, -pi / 2 down: the same line left and right.
    angle = np.arcsin(np.clip(np.sin(turn), -1, 1))
    fringe = person.hair_line - 0.34 * shot.hair_fringe
    temple = person.hair_temple
    drop = 0.45 if long > 0.45 else 0.0
    low = 1.62 - 0.42 * (drop > 0)
    table_x = np.array([-1.6, -0.75, -0.35, -0.1, 0.12, 0.35, 0.7, 1.1, 1.6])
    table_y = np.array(
        [2.5, 2.5 - 1.9 * drop, 2.3 - 2.2 * drop, low, 1.45 - 0.42 * drop, 1.03 - 0.05 * drop,
         0.96 + temple - 0.15 * shot.hair_fringe, fringe + 0.12 + 0.9 * temple, fringe + 0.02]
    )  # fmt: skip
    line = np.interp(angle.ravel(), table_x, table_y).reshape(angle.shape).astype(np.float32)
    line = cv2.resize(line, (grid.size, grid.size), interpolation=cv2.INTER_LINEAR)
    line += np.float32(2.5) * step(0.0, 0.03, head.ear) * np.float32(drop == 0)
    loose = 0.030 + 0.03 * shot.hair_fringe
    depth = grid.rho - line + loose * np.clip(strand, -1.5, 1.5) + 0.02 * wave
    cover = step(-0.01, 0.085 - 0.04 * shot.hair_fringe, depth)
    volume = (0.03 + shot.hair_volume * (0.35 + 0.65 * long)) * (1 + 0.35 * person.hair_curl)
    # The shell itself is smooth: a ray meets it in a few steps. Strands live in its normals.
    calm = grid.rho - line
    thick = volume * step(-0.02, 0.42, calm) * (1 + 0.10 * wave) + 0.010 * step(-0.06, 0.10, calm)
    thick *= 1 - 0.3 * np.exp(np.float32(-40) * along * along)
    thick -= step(0.0, 0.08, calm) * head.ear
    # Side hair sits in front of the ears and falls straight rather than following the jaw.
    # Sides lie closer than the top, above all when short.
    thick *= (0.40 + 0.35 * long) + (0.60 - 0.35 * long) * step(0.1, 0.75, grid.direction[1])
    thick += 0.10 * drop * step(0.0, 0.25, calm) * step(0.1, -0.4, head.y)
    relief = np.float32(0.0035 + 0.003 * person.hair_curl) * np.clip(strand, -2, 2)
    base = np.array(person.hair_colour, np.float32)
    grey = np.clip(person.grey + 0.5 * person.grey * strand, 0, 1)[..., None]
    colour = base * np.exp(np.float32(0.34) * np.clip(strand, -2.2, 2.0))[..., None]
    colour = colour * (1 - grey) + grey * np.float32(0.42) * np.exp(0.2 * strand)[..., None]
    return Hair(
        cover=cover,
        thick=thick.astype(np.float32),
        relief=(relief * cover).astype(np.float32),
        strand=strand,
        colour=colour.astype(np.float32),
        crown=crown,
    )
