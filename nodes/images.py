"""ComfyUI's IMAGE at the border: [B, H, W, C] there, [B, 3, H, W] in the core."""

from __future__ import annotations

import torch
from comfy.model_management import intermediate_device
from torch import Tensor


def from_image(image: Tensor) -> Tensor:
    """IMAGE [B, H, W, 1, 3 or 4] -> float32 [B, 3, H, W]; grey becomes RGB, alpha is left out.

    Raises:
        ValueError: another number of channels, or no pixels.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or not image.numel():
        raise ValueError(f"Expected an IMAGE [B, H, W, 3], got a tensor of shape {list(image.shape)}.")
    pixels = image[..., :3].expand(*image.shape[:-1], 3).movedim(-1, 1)
    return pixels.to(intermediate_device(), torch.float32)


def to_image(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] -> IMAGE in [0, 1]."""
    return pixels.clamp(0, 1).movedim(1, -1)
