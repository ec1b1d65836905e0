"""Residual blocks and resampling shared by the U-Net and the LQ encoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ops import Backend
from .sft import SFT
from .transformer import Site


def timestep_embedding(timesteps: Tensor, channels: int, max_period: float = 10_000) -> Tensor:
    """Sinusoidal embedding of time steps, cosines first (DDPM, as Stable Diffusion has it).

    Args:
        timesteps: [B], integer or float, 0…999.
    Returns:
        [B, channels] in fp32.
    """
    half = channels // 2
    index = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(max_period) * index / half)
    angles = timesteps.float()[:, None] * frequencies
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, channels % 2))


def time_mlp(channels: int, outputs: int, backend: Backend) -> nn.Sequential:
    """The two-layer network behind the sinusoidal embedding."""
    return nn.Sequential(backend.linear(channels, outputs), nn.SiLU(), backend.linear(outputs, outputs))


class ResBlock(nn.Module):
    """Stable Diffusion's residual block, with an SFT layer before the skip addition.

    ``skip(x) + sft(out_layers(in_layers(x) + emb), features)`` (StableSR, section 3.1).
    `level` says which of the LQ features belongs to this resolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        emb_channels: int,
        backend: Backend,
        level: int = 0,
        sft_channels: int = 0,
        sft_hidden: int = 128,
    ) -> None:
        super().__init__()
        self.level, self.out_channels = level, outputs
        self.in_layers = nn.Sequential(
            backend.group_norm(inputs), nn.SiLU(), backend.conv(inputs, outputs, 3)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), backend.linear(emb_channels, outputs))
        # Identity stands where Stable Diffusion has its dropout, so that the convolution keeps its key.
        self.out_layers = nn.Sequential(
            backend.group_norm(outputs), nn.SiLU(), nn.Identity(), backend.conv(outputs, outputs, 3)
        )
        self.skip_connection = nn.Identity() if inputs == outputs else backend.conv(inputs, outputs, 1)
        self.spade = SFT(outputs, sft_channels, sft_hidden, backend) if sft_channels else None

    def forward(
        self, x: Tensor, emb: Tensor, features: list[Tensor] | None = None, site: Site | None = None
    ) -> Tensor:
        """x [B, C, H, W], emb [B, E] -> [B, C', H, W].

        Args:
            features: of every level, or None for SFT off.
            site: replaces the result, its pixels as tokens [B, H·W, C'] (PFStorer eq. 3).
        """
        h = self.in_layers(x)
        h = self.out_layers(h + self.emb_layers(emb)[:, :, None, None])
        if features is not None and self.spade is not None:
            h = self.spade(h, features[self.level])
        h = self.skip_connection(x) + h
        if site is None:
            return h
        # A block in training is fp32, and the layers after this one may not be.
        tokens = site(h.flatten(2).transpose(1, 2)).to(h.dtype)
        return tokens.transpose(1, 2).unflatten(2, h.shape[-2:])


class ResnetBlock(nn.Module):
    """The autoencoder's residual block, without time: two times GroupNorm, SiLU, convolution."""

    SHORTCUT = "nin_shortcut"
    """Key of the skip's 1x1 convolution in the published weights."""

    def __init__(self, inputs: int, outputs: int, backend: Backend) -> None:
        super().__init__()
        self.norm1 = backend.group_norm(inputs, eps=1e-6)
        self.conv1 = backend.conv(inputs, outputs, 3)
        self.norm2 = backend.group_norm(outputs, eps=1e-6)
        self.conv2 = backend.conv(outputs, outputs, 3)
        skip = nn.Identity() if inputs == outputs else backend.conv(inputs, outputs, 1)
        self.add_module(self.SHORTCUT, skip)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.get_submodule(self.SHORTCUT)(x) + h


class Downsample(nn.Module):
    """Halve the resolution (rounding up) by a strided convolution."""

    def __init__(self, channels: int, backend: Backend) -> None:
        super().__init__()
        self.op = backend.conv(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to `size` and a convolution."""

    def __init__(self, channels: int, backend: Backend) -> None:
        super().__init__()
        self.conv = backend.conv(channels, channels, 3)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
