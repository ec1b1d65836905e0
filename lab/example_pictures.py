"""The pictures that the node ExamplePictures offers: of people who do not exist, cut from photographs.

These are PyPI's openpeople (MIT) as a folder: `photos/PERSON_KIND.jpg`, and where the person is in
`masks/PERSON_KIND.png`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from pfstorer_core.degradation import PRESETS, applied_at
from pfstorer_core.imaging.faces import cut, face_square, largest_face
from pfstorer_core.imaging.pictures import read_picture, write_picture
from pfstorer_core.imaging.resizing import resize
from pfstorer_core.personalization.photos import MARGIN
from pfstorer_core.training.degradation import RandomDegradation

PEOPLE = ("P007", "P008", "P004")
"""Whom no network of ours has seen."""
PHOTOS, TRUE, STANDING = ("portrait", "c00", "e00", "e03", "e06"), "e08", "amateur"
"""Kinds of photographs: what a person is learned from, what is damaged, and what the group is made of."""
PHOTO_SIDE, TRUE_SIDE = 320, 256
"""In pixels: nothing is enlarged for the one, and the embedded restorer draws pictures of the other."""
SHRINK = 2
"""By which bad pictures are smaller than true ones."""
PRESET = "heavy"
SEEDS = {"P007": (1, 0), "P008": (2, 1), "P004": (3, 2), "group": (15, 3)}
"""Of the damage, chosen by eye: one still guesses who it is, and no more. In the group all faces are found,
and each is nearest to its own person's photos by dlib's recogniser."""
BEHIND, BESIDE, FACE = "P008", {"P007": (170, 215), "P004": (690, 235)}, 140
"""The group: whose photograph it is, where in its pixels the middles of the others' faces lie, and how high
these are."""
ROWS = (20, 540)
"""Of that photograph that the group shows."""


def make_example_pictures(folder: Path, output: Path) -> None:
    """Write `PERSON_photo_N.jpg`, `PERSON_true.jpg` and `PERSON_bad.png` of each person, and those two of
    `group`. A bad picture is a true one under the preset, as a training of 256 pixels applies it, at half the
    size. The same photographs give the same files.

    Raises:
        FileNotFoundError, ValueError: a photograph is missing, or shows no face.
    """
    output.mkdir(parents=True, exist_ok=True)
    for person in PEOPLE:
        for n, kind in enumerate(PHOTOS, start=1):
            photo = face_of(folder, f"{person}_{kind}", PHOTO_SIDE)
            write_picture(photo, output / f"{person}_photo_{n}.jpg")
        write_pair(face_of(folder, f"{person}_{TRUE}", TRUE_SIDE), TRUE_SIDE, output / person)
    write_pair(group_of(folder), round(FACE * (1 + MARGIN)), output / "group")


def face_of(folder: Path, name: str, side: int) -> Tensor:
    """The square [1, 3, side, side] about the face in a photograph, as trainings cut it."""
    photo, box = _photo(folder, name)
    window = face_square(box, (photo.shape[-2], photo.shape[-1]), MARGIN)
    return resize(cut(photo, window), (side, side)).clamp(0, 1)


def group_of(folder: Path) -> Tensor:
    """The people side by side in one photograph [1, 3, H, W]."""
    photo, _ = _photo(folder, f"{BEHIND}_{STANDING}")
    group = _image(photo)
    for person, middle in BESIDE.items():
        name = f"{person}_{STANDING}"
        photo, (left, top, right, bottom) = _photo(folder, name)
        scale = FACE / (bottom - top)
        size = round(photo.shape[-1] * scale), round(photo.shape[-2] * scale)
        mask = (
            Image.open(folder / "masks" / f"{name}.png").convert("L").resize(size, Image.Resampling.BICUBIC)
        )
        # A pixel less, and soft: the edge has the colours of where the person stood.
        mask = mask.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.GaussianBlur(1.2))
        x, y = middle[0] - (left + right) / 2 * scale, middle[1] - (top + bottom) / 2 * scale
        group.paste(_image(photo).resize(size, Image.Resampling.LANCZOS), (round(x), round(y)), mask)
    pixels = torch.from_numpy(np.asarray(group)[slice(*ROWS)].copy()).float() / 255
    return pixels.movedim(-1, 0)[None]


def write_pair(true: Tensor, face: int, path: Path) -> None:
    """A picture [1, 3, H, W] and what damage makes of it, under the name in `path`.

    Args:
        face: pixels of the squares about its faces.
    """
    height, width = true.shape[-2:]
    at = round(min(height, width) / face * applied_at(PRESET, face))
    _, bad = RandomDegradation((PRESETS[PRESET],), (at,))(true, [np.random.default_rng(SEEDS[path.name])])
    write_picture(true, path.with_name(f"{path.name}_true.jpg"))
    small = resize(bad, (height // SHRINK, width // SHRINK)).clamp(0, 1)
    write_picture(small, path.with_name(f"{path.name}_bad.png"))


def _photo(folder: Path, name: str) -> tuple[Tensor, tuple[int, int, int, int]]:
    """A photograph [1, 3, H, W], and the box of its largest face."""
    photo = read_picture(folder / "photos" / f"{name}.jpg")
    box = largest_face(photo[0])
    if box is None:
        raise ValueError(f"No face is found in {name}.jpg, so that nothing can be cut from it.")
    return photo, box


def _image(picture: Tensor) -> Image.Image:
    return Image.fromarray((picture[0].movedim(0, -1) * 255).round().byte().numpy())
