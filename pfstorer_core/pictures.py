"""Picture files as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .files import written


def read_picture(path: Path | str) -> Tensor:
    """A picture file as float [1, 3, H, W] in [0, 1], turned upright as its EXIF says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture that Pillow can read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No picture at {path}.")
    try:
        with Image.open(path) as image:
            pixels = np.asarray(to_rgb(ImageOps.exif_transpose(image)), dtype=np.float32)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"{path} is not a picture that can be read ({error}).") from error
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)[None]


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of a picture in any of Pillow's modes; transparent parts become white."""
    if image.mode[0] in "IF":  # 16 and 32 bits a value, which Pillow would clip at 255
        values = np.nan_to_num(np.asarray(image, np.float64))
        peak = 65535 if image.mode[0] == "I" else 1 if values.max() <= 1 else 255
        scaled = (values * (255 / peak)).round().clip(0, 255)
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def write_picture(image: Tensor, path: Path | str, texts: Mapping[str, str] | None = None) -> None:
    """Write the first of the pictures [B, 3, H, W] in [0, 1] as an 8-bit PNG, with these texts in it."""
    pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    about = PngInfo()
    for name, text in (texts or {}).items():
        about.add_text(name, text)
    with written(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG", pnginfo=about)
