"""The drawn person whose adapter comes with the pack, on the StableSR-like restorer: what tests restore."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from lab.evaluation import CaseSettings, draw_case
from lab.evaluation.cases import Case

from .picture import image_of

DRAWN_PERSON = "drawn_person"
"""The adapter."""
SEED, PERSON, PHOTOS, REFERENCES = 100, 1, 6, 5
"""Of the drawing; the seed is none of `evaluate`'s, and no training draws these people."""
BAD = 4
"""Which of the photos is restored: one of which enough is left that a face comes back, glasses and all."""
SIDE, BAD_SIDE = 256, 128
"""Pixels along a side of the true picture and of the bad one."""


def case() -> Case:
    settings = CaseSettings(photos=PHOTOS, references=REFERENCES, size=SIDE, seed=SEED)
    return draw_case(settings, PERSON, "heavy").only(BAD)


def bad_picture(drawn: Case) -> Image.Image:
    return drawn_image(drawn.lq[0]).resize((BAD_SIDE, BAD_SIDE), 3)


def drawn_image(picture: Tensor) -> Image.Image:
    """A picture [3, H, W] in [0, 1]."""
    return image_of(picture.permute(1, 2, 0).numpy())
