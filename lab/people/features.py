"""Features: eyes, brows and mouth, painted anew for each photo because expression moves them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .eyes import paint_brow, paint_eye
from .face import Face
from .head import Head
from .jaw import Jaw, drop
from .mouth import open_mouth, paint_lips
from .person import Person
from .shot import Shot


def paint_face(head: Head, person: Person, shot: Shot) -> Face:
    """The head of `person` with the expression of `shot`."""
    jaw = Jaw.of(person, shot)
    face = Face(jaw, head.radius.copy(), head.radius, head.bump.copy(), head.gloss.copy(), head.albedo.copy())
    for side in (-1, 1):
        paint_eye(face, head, person, shot, side)
        paint_brow(face, head, person, shot, side)
    paint_lips(face, head, person, shot, jaw)
    closed = face.radius.copy()
    radius, bump, gloss, *albedo = drop(jaw, head, [face.radius, face.bump, face.gloss, *face.albedo])
    face = replace(face, closed=closed, radius=radius, bump=bump, gloss=gloss, albedo=np.stack(albedo))
    open_mouth(face, head, person, shot, jaw)
    return face
