"""Drawn people: parametric faces, photographed, to train and to show with.

A `Person` is an identity of fixed traits, a `Shot` the circumstances of one photo, and
`photograph` draws the one in the other. `dead_leaves` draws pictures without a face that have
natural statistics. Everything is numpy and OpenCV on a CPU, and seeded.
"""

from .landmarks import LANDMARKS
from .leaves import dead_leaves
from .person import Person, draw_person
from .photo import Photo, photograph
from .sheet import contact_sheet
from .shot import Shot, draw_shot
from .traits import Trait

__all__ = [
    "LANDMARKS",
    "Person",
    "Photo",
    "Shot",
    "Trait",
    "contact_sheet",
    "dead_leaves",
    "draw_person",
    "draw_shot",
    "photograph",
]
