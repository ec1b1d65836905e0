"""Changing the size of pictures as training data is commonly made: without care for aliasing."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

MODES = ("area", "bilinear", "bicubic")
SLACK = 1e-9
"""Pixels that a size may lack of a whole one, where a scale such as 1 / 3 was rounded, without losing it."""


def resize(image: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Resize float [B, 3, H, W] in [0, 1] to [B, 3, *size].

    Args:
        mode: "area" averages the pixels that a new one covers; "bilinear" and "bicubic" look at the
            nearest 2 and 4 of a row only, however much smaller the picture becomes.

    Raises:
        ValueError: no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"No resize mode {mode!r}; choose one of {', '.join(MODES)}.")
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size=size, mode=mode).clamp(0, 1)


def scaled_size(size: tuple[int, int], scale: float, floor: bool = False) -> tuple[int, int]:
    """Height and width times `scale`, rounded to the nearest or down, at least one pixel each.

    Raises:
        ValueError: a scale that is not positive.
    """
    if not scale > 0:
        raise ValueError(f"A picture is scaled by a positive factor, not by {scale}.")
    height, width = (int(side * scale + SLACK) if floor else round(side * scale) for side in size)
    return max(1, height), max(1, width)
