"""Pictures of the demo: reading whatever a user has, damaging, and showing side by side."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.imaging.pictures import known_formats, to_rgb

from .console import HarnessError

SMALLEST_SIDE = 16
LARGEST_INPUT = 100_000_000
"""Pixels; decoding more takes gigabytes."""
LARGEST_OUTPUT = 1024 * 1024
"""Pixels; what a laptop's CPU restores in a demo's time."""
LONGEST_SIDE = 4096
MIDDLE = (0.13, 0.23, 0.87, 0.97)
"""Of an aligned face, as parts of its sides: from the hair to the chin."""


def read_picture(path: Path) -> Image.Image:
    """A picture file as upright 8-bit RGB; of an animation the first frame, transparency on white.

    Raises:
        HarnessError: no such file, no picture, a damaged one, or too small or large a one.
    """
    if not path.is_file():
        raise HarnessError(f"{path}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on large pictures: check_size has a say
            with Image.open(path, formats=known_formats()) as image:
                check_size(path, image.size)
                kind = image.format
                return to_rgb(ImageOps.exif_transpose(image), kind)
    except HarnessError:
        raise
    except Image.UnidentifiedImageError:
        raise HarnessError(f"{path}: not a picture that can be read (try PNG or JPEG)") from None
    except Image.DecompressionBombError:
        raise HarnessError(f"{path}: far too large; scale it down first") from None
    except Exception as error:  # decoders of damaged files raise anything
        raise HarnessError(f"{path}: a damaged picture ({error})") from None


def check_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if min(size) < SMALLEST_SIDE:
        raise HarnessError(
            f"{path}: {width} x {height} pixels are too few; each side needs {SMALLEST_SIDE} or more"
        )
    if width * height > LARGEST_INPUT:
        raise HarnessError(
            f"{path}: {width} x {height} pixels are too many; "
            f"scale it down to {LARGEST_INPUT // 1_000_000} megapixels or fewer"
        )


def plan(size: tuple[int, int], upscale: float) -> tuple[tuple[int, int], float]:
    """The input size and the factor with which the output stays within the demo's limits.

    First the factor is lowered, to 1 at least; then the input is scaled down.
    """
    room = min(math.sqrt(LARGEST_OUTPUT / (size[0] * size[1])), LONGEST_SIDE / max(size))
    if room >= 1:
        return size, round(min(upscale, math.floor(room * 100) / 100), 2)
    return (max(1, int(size[0] * room)), max(1, int(size[1] * room))), 1.0


def damage(image: Image.Image, seed: int) -> Image.Image:
    """A quarter of the size, a little blurred, with noise and JPEG artefacts; seeded."""
    import torch

    from pfstorer_core.degradation import Blur, Degradation, GaussianNoise, Jpeg, Resize, degrade

    degradation = Degradation((Blur(0.8, 0.8), Resize(1 / 4), GaussianNoise(1.5, seed=seed), Jpeg(92)))
    good = torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None]
    return image_of(degrade(good, [degradation], keep_size=False)[0].permute(1, 2, 0).numpy())


def middle_of_face(aligned: Image.Image) -> Image.Image:
    """The face alone of one that is aligned as in FFHQ: where it was cut out of a narrow picture, the rest is
    a mirror's."""
    left, top, right, bottom = MIDDLE
    width, height = aligned.size
    box = left * width, top * height, right * width, bottom * height
    return aligned.crop((round(box[0]), round(box[1]), round(box[2]), round(box[3])))


def image_of(pixels: np.ndarray) -> Image.Image:
    """Of floats [H, W, 3] in 0…1."""
    return Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8))


def side_by_side(panels: Sequence[tuple[str, Image.Image]], columns: int = 0) -> Image.Image:
    """Pictures of one size with their captions, in rows of so many; with 0 in one row, or in a column if they
    are wide."""
    gap, strip = 8, 28
    width, height = panels[0][1].size
    columns = columns or (len(panels) if width <= 2 * height else 1)
    rows = math.ceil(len(panels) / columns)
    across, down = width + gap, height + strip + gap
    sheet = Image.new("RGB", (columns * across + gap, rows * down), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for index, (caption, image) in enumerate(panels):
        x, y = gap + index % columns * across, index // columns * down
        draw.text((x + 2, y + 4), caption, (230, 230, 230), font)
        sheet.paste(image, (x, y + strip))
    return sheet


def encode(image: Image.Image) -> bytes:
    """The picture as a PNG file's content."""
    encoded = BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def decode(content: bytes) -> Image.Image:
    """The RGB picture in a file's content."""
    return Image.open(BytesIO(content)).convert("RGB")


def write_png(image: Image.Image, path: Path) -> None:
    """Write a PNG that appears whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(encode(image))
