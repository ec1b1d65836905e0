"""Where a latent takes what a face recogniser asks for: CLR-Face's learnable mask, read two ways."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ops import Backend

CLOSED = -2.0
"""Of a new mask's logits: it admits a tenth."""


@dataclass(frozen=True)
class IdentityMaskConfig:
    """Sizes of a mask.

    Attributes:
        channels: of the latent.
        size: height and width of the latent of aligned faces, for which the mask is one for all; None: it is
            predicted for each picture.
        hidden: width of the layers that predict it.
    """

    channels: int
    size: tuple[int, int] | None = None
    hidden: int = 32


class GlobalMask(nn.Module):
    """One mask for all pictures, which are aligned faces."""

    def __init__(self, config: IdentityMaskConfig, backend: Backend | None = None) -> None:
        super().__init__()
        assert config.size is not None
        placement = (backend or Backend()).placement
        self.config = config
        self.logits = nn.Parameter(torch.full((config.channels, *config.size), CLOSED, **placement))

    def forward(self, lq: Tensor, cleaned: Tensor) -> Tensor:
        """In [0, 1], [1, C, h, w] for latents [B, C, h, w] of any size."""
        logits = self.logits[None].to(lq)
        if logits.shape[-2:] != lq.shape[-2:]:
            logits = F.interpolate(logits, size=lq.shape[-2:], mode="bilinear")
        return logits.sigmoid()


class PredictedMask(nn.Module):
    """A mask for each picture, read off the latents of the bad and of the cleaned picture."""

    def __init__(self, config: IdentityMaskConfig, backend: Backend | None = None) -> None:
        super().__init__()
        backend = backend or Backend()
        self.config = config
        widths = (2 * config.channels, config.hidden, config.hidden, config.channels)
        self.layers = nn.Sequential(
            backend.conv(widths[0], widths[1], 3),
            nn.SiLU(),
            backend.conv(widths[1], widths[2], 3),
            nn.SiLU(),
            backend.conv(widths[2], widths[3], 3),
        )

    def forward(self, lq: Tensor, cleaned: Tensor) -> Tensor:
        """In [0, 1], for the latents of both pictures [B, C, h, w], of the same shape."""
        return (self.layers(torch.cat([lq, cleaned], 1)) + CLOSED).sigmoid()


IdentityMask = GlobalMask | PredictedMask


def build_mask(config: IdentityMaskConfig, backend: Backend | None = None) -> IdentityMask:
    """A mask that has learned nothing, one for all pictures or predicted."""
    return (GlobalMask if config.size else PredictedMask)(config, backend)
