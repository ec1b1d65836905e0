"""What a restorer goes by."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Condition:
    """What a restorer has to go by.

    Attributes:
        spatial: what the U-Net's conditioner reads, on the latent grid [b, C, h, w]: tiles crop it. None:
            nothing, the U-Net draws what it likes.
        start: scaled latent [B, C, h, w] that sampling starts from, noised; None for pure noise.
    """

    spatial: Tensor | None = None
    start: Tensor | None = None


UNCONDITIONAL = Condition()


def pixel_hint(pictures: Tensor, latents: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] as a U-Net sees them beside latents [B, C, h, w]: [B, 3, h, w] in
    [-1, 1]."""
    return 2 * F.interpolate(pictures.to(latents), size=latents.shape[-2:], mode="area") - 1
