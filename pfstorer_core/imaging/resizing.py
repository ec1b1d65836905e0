"""Pictures of another size, large ones strip by strip, so that the work can be stopped in between."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

AT_ONCE, STRIP = 2**26, 2**22
"""Values of a result or a picture that are still resized at once, and of the strips of larger ones."""


def resize(image: Tensor, size: tuple[int, int], on_strip: Callable[[], object] = lambda: None) -> Tensor:
    """Bicubic, with anti-aliasing where it shrinks; the same tensor where the size is right already.

    Args:
        image: [B, C, H, W]. size: height and width.
        on_strip: hears of every strip of a large picture; what it raises stops the work.
    """
    height, width = size
    if tuple(image.shape[-2:]) == (height, width):
        return image
    batch, channels = image.shape[:2]
    planes = batch * channels
    if max(image.numel(), planes * height * width) <= AT_ONCE:
        return _bicubic(image, (height, width))
    # Rows do not depend on each other in x, nor columns in y: torch itself resizes one axis after the other.
    wide = image.new_empty(*image.shape[:-1], width)
    step = max(1, STRIP // (planes * max(width, image.shape[-1])))
    for top in range(0, image.shape[-2], step):
        on_strip()
        rows = image[..., top : top + step, :]
        lines = _bicubic(rearrange(rows, "b c h w -> 1 (b c h) 1 w"), (1, width))
        wide[..., top : top + step, :] = rearrange(lines, "1 (b c h) 1 w -> b c h w", b=batch, c=channels)
    resized = wide.new_empty(*wide.shape[:-2], height, width)
    step = max(1, STRIP // (planes * max(height, image.shape[-2])))
    for left in range(0, width, step):
        on_strip()
        columns = wide[..., left : left + step]
        resized[..., left : left + step] = _bicubic(columns, (height, columns.shape[-1]))
    return resized


def resize_short_side(image: Tensor, size: int, on_strip: Callable[[], object] = lambda: None) -> Tensor:
    """`resize` so that the shorter side has `size` pixels; the longer one is rounded up, as DiffBIR does."""
    return resize(image, short_side(image.shape[-2], image.shape[-1], size), on_strip)


def short_side(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of a picture whose shorter side is brought to `size`; the longer one is rounded up."""
    short = min(height, width)
    return -(-height * size // short), -(-width * size // short)


def _bicubic(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size=size, mode="bicubic", antialias=True)
