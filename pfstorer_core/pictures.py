"""Picture files as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
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
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.float32)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"{path} is not a picture that can be read ({error}).") from error
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)[None]


def write_picture(image: Tensor, path: Path | str) -> None:
    """Write the first of the pictures [B, 3, H, W] in [0, 1] as an 8-bit PNG."""
    pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    with written(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")
