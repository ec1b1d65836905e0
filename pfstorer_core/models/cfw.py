"""Controllable feature wrapping: lets the LQ picture's features correct the decoder's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import ResnetBlock
from .ops import Backend


class ConvBlock(ResnetBlock):
    """The autoencoder's residual block, under the key names of the published CFW weights."""

    SHORTCUT = "conv_out"


class ResidualDenseBlock(nn.Module):
    """Five densely connected convolutions (ESRGAN)."""

    def __init__(self, channels: int, growth: int, backend: Backend) -> None:
        super().__init__()
        for i in range(1, 6):
            outputs = growth if i < 5 else channels
            self.add_module(f"conv{i}", backend.conv(channels + (i - 1) * growth, outputs, 3))

    def forward(self, x: Tensor) -> Tensor:
        dense, h = [x], x
        for i, conv in enumerate(self.children(), start=1):
            h = conv(torch.cat(dense, dim=1))
            if i < 5:
                dense.append(F.leaky_relu(h, 0.2))
        return x + 0.2 * h


class RRDB(nn.Module):
    """Residual in residual dense block (ESRGAN)."""

    def __init__(self, channels: int, growth: int, backend: Backend) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (ResidualDenseBlock(channels, growth, backend) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class FusionLayer(nn.Module):
    """``h + w·E3(RRDB×2(E1(cat[enc, h])))`` (StableSR eq. 4)."""

    def __init__(self, channels: int, backend: Backend, growth: int = 32) -> None:
        super().__init__()
        self.encode_enc_1 = ConvBlock(2 * channels, channels, backend)
        self.encode_enc_2 = nn.Sequential(*(RRDB(channels, growth, backend) for _ in range(2)))
        self.encode_enc_3 = ConvBlock(channels, channels, backend)

    def forward(self, encoded: Tensor, h: Tensor, w: float) -> Tensor:
        """encoded, h: [B, C, H, W] of the LQ encoder and of the decoder; w in [0, 1]."""
        fused = self.encode_enc_3(self.encode_enc_2(self.encode_enc_1(torch.cat([encoded, h], dim=1))))
        return h + w * fused
