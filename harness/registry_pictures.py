"""`python -m harness.registry_pictures`: the pack's icon and banner for ComfyUI's registry.

A drawn person, who is nobody, from coarse to fine. The registry takes an icon of at most 400 x 400 pixels
and a banner of 21 : 9.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lab.people import draw_person, draw_shot, photograph

from . import ROOT
from .console import run_main, say
from .picture import image_of

FOLDER = ROOT / "assets" / "registry"
ICON, BANNER = 400, (1260, 540)
STRIPS = ((15, 0.36), (36, 0.5))
"""Blocks along a side, up to which part of the width; the rest of the face is whole."""
PERSON = 13
INK, PAPER = (238, 236, 228), (24, 27, 33)
TITLE, LINE = "PFStorer", "restores a face as the person it is"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    face = coarse_to_fine(draw_face(BANNER[1]))
    save(face.resize((ICON, ICON), Image.Resampling.LANCZOS), FOLDER / "icon.png")
    save(banner(face), FOLDER / "banner.png")


def draw_face(side: int) -> Image.Image:
    rng = np.random.default_rng(PERSON)
    return image_of(photograph(draw_person(rng), draw_shot(rng, yaw=4.0, fill=0.8), side).image)


def coarse_to_fine(face: Image.Image) -> Image.Image:
    """The square `face`, made of ever smaller blocks from left to right."""
    side, left = face.width, 0
    made = face.copy()
    for blocks, part in STRIPS:
        small, right = face.resize((blocks, blocks), Image.Resampling.BOX), round(side * part)
        made.paste(small.resize(face.size, Image.Resampling.NEAREST).crop((left, 0, right, side)), (left, 0))
        left = right
    return made


def banner(face: Image.Image) -> Image.Image:
    image = Image.new("RGB", BANNER, PAPER)
    image.paste(face, (BANNER[0] - face.width, 0))
    draw = ImageDraw.Draw(image)
    draw.text((60, 190), TITLE, INK, ImageFont.load_default(120))
    draw.text((64, 335), LINE, INK, ImageFont.load_default(34))
    return image


def save(image: Image.Image, path: Path) -> None:
    image.save(path, optimize=True)
    say(f"{path.relative_to(ROOT)}: {image.width} x {image.height}, {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    run_main(main)
