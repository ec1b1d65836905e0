"""Picture files as tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..checkpoints.files import atomic_write
from ..checkpoints.words import plain

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""What is read. Pillow knows more, and some of them, such as PostScript, start other programs."""

MOST_PIXELS = 178_956_970
"""Of a picture file: half a gigabyte as 8-bit RGB, and the size at which Pillow gives up by default."""

WRITTEN = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".bmp": ("BMP", {}),
}
"""Format and settings of a picture that is written, by the ending of its name."""

STRIP = 256
"""Rows of a grey picture that are converted at once."""
STRAY = 0.01
"""Share of a picture's values that may be above its range."""
FLOAT_PEAKS = ((1.0, 2.0), (255.0, 300.0), (65535.0, np.inf))
INTEGER_PEAKS = ((255.0, 255.0), (65535.0, 65535.0), (2.0**31 - 1, np.inf))
"""What white may be, and the value above which no more than `STRAY` of the values may then lie."""


def read_picture(path: Path | str) -> Tensor:
    """A picture file as float [1, 3, H, W] in [0, 1]: see `open_picture`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture that can be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No picture at {plain(path, 200)}.")
    return from_image(open_picture(path, path))


def from_image(image: Image.Image) -> Tensor:
    """Pillow's picture of 8 bits a value as float [1, C, H, W] in [0, 1]."""
    pixels = np.array(image, dtype=np.float32)
    pixels /= 255
    return torch.from_numpy(pixels.reshape(1, image.height, image.width, -1)).permute(0, 3, 1, 2)


def known_formats() -> list[str]:
    """Those of `FORMATS` that this Pillow has."""
    Image.init()
    return [kind for kind in FORMATS if kind in Image.OPEN]


def open_picture(file: Path | IO[bytes], name: object) -> Image.Image:
    """The picture in a file as 8-bit RGB, turned upright as its EXIF says; the first one where it holds
    several. Transparent parts become white. Of grey values of more than 8 bits, see `to_rgb`.

    Args:
        name: of the file, for the error.
    Raises:
        ValueError: none of `FORMATS`, damaged, too large, or with NaN among its values; names the file.
    """
    with opened(file, name) as image:
        # A copy that was turned has forgotten its format.
        return to_rgb(ImageOps.exif_transpose(image), image.format)


@contextmanager
def opened(file: Path | IO[bytes], name: object) -> Iterator[Image.Image]:
    """Pillow's picture of a file, for whatever is read of it; see `open_picture` for `name` and the error,
    which everything that fails within becomes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of large pictures and odd tags: what is too large is refused here
            with Image.open(file, formats=known_formats()) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(
                        f"it has {image.width:,} × {image.height:,} pixels, more than {MOST_PIXELS:,}"
                    )
                yield image
    except Exception as error:  # what a damaged picture leads to has no limits
        why = (
            "it is damaged or of another kind"
            if isinstance(error, OSError | SyntaxError)
            else plain(error, 200)
        )
        raise ValueError(
            f"{plain(name, 200)} is not a picture that can be read ({why}): expected a whole PNG, JPEG, "
            "WebP, TIFF, BMP, GIF or PPM."
        ) from error


def to_rgb(image: Image.Image, kind: str | None = None) -> Image.Image:
    """8-bit RGB of a picture in any of Pillow's modes; transparent parts become white.

    What is white, in grey pictures of more than 8 bits: 65535 where a value has 16. Of 32-bit integers the
    smallest of 255, 65535 and 2³¹ - 1 that no more than 1 % of the values exceed. Of floating-point ones 1,
    unless more than 1 % are above 2: then 255, and 65535 where more than 1 % are above 300.

    Args:
        kind: of the file that it was read from, where that says more.
    Raises:
        ValueError: NaN or infinity among the values.
    """
    if image.mode[0] in "IF":  # 16 and 32 bits a value, which Pillow would clip at 255
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError("there is NaN or infinity among its values")
        if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
            peak = 65535.0
        else:
            peaks = FLOAT_PEAKS if image.mode == "F" else INTEGER_PEAKS
            peak = next(white for white, above in peaks if (values > above).mean() <= STRAY)
        scaled = np.empty(values.shape, np.uint8)
        for top in range(0, len(values), STRIP):  # the wide numbers of a large picture would take gigabytes
            strip = values[top : top + STRIP].astype(np.float64)
            scaled[top : top + STRIP] = (strip * (255 / peak)).round().clip(0, 255)
        return Image.fromarray(scaled).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_bytes(picture: Tensor) -> np.ndarray:
    """A picture [C, H, W] in [0, 1] with 8 bits a value, uint8 [H, W, C], as Pillow and OpenCV take it."""
    return rearrange((picture.clamp(0, 1) * 255).round().byte().cpu(), "c h w -> h w c").contiguous().numpy()


def check_picture_name(path: Path | str) -> None:
    """Raise ValueError, before any work, where no picture can be written under that name: see `WRITTEN`."""
    if Path(path).suffix.lower() not in WRITTEN:
        raise ValueError(f"{plain(path, 200)} has to end in {', '.join(WRITTEN)}: the ending is the format.")


def write_picture(image: Tensor, path: Path | str, texts: Mapping[str, str] | None = None) -> None:
    """Write the first of the pictures [B, 3, H, W] in [0, 1], 8 bits a value, in the format of its ending; a
    PNG with these texts in it.

    Raises:
        ValueError: see `check_picture_name`.
    """
    check_picture_name(path)
    kind, settings = WRITTEN[Path(path).suffix.lower()]
    about = PngInfo()
    for name, text in (texts or {}).items():
        about.add_text(name, text)
    with atomic_write(path) as temporary:
        Image.fromarray(to_bytes(image[0])).save(
            temporary, kind, **settings, **({"pnginfo": about} if texts else {})
        )
