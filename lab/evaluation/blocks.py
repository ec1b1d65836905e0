"""The layers of the judges."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def conv(inner: int, outer: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution and group norm (its statistics are each picture's own, so averaged weights stay valid)."""
    return nn.Sequential(
        nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False), nn.GroupNorm(8, outer)
    )


class Residual(nn.Module):
    """[B, inner, H, W] -> [B, outer, H/stride, W/stride] (He et al. 2016)."""

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv(inner, outer, 3, stride)
        self.second = conv(outer, outer)
        self.skip = nn.Identity() if (inner, stride) == (outer, 1) else conv(inner, outer, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.skip(x) + self.second(F.silu(self.first(x))))
