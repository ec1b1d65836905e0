"""Residual blocks, resampling and time embedding, which several networks share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .layers import Layer, LayerInputs
from .ops import Backend
from .sft import SFT


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
    return F.pad(embedding, (0, 1)) if channels % 2 else embedding


def time_mlp(channels: int, outputs: int, backend: Backend) -> nn.Sequential:
    """The two-layer network behind the sinusoidal embedding."""
    return nn.Sequential(backend.linear(channels, outputs), nn.SiLU(), backend.linear(outputs, outputs))


class ResBlock(Layer):
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
        # Identity stands where Stable Diffusion has its dropout, so that the convolution keeps its key, and
        # where it has the embedding's SiLU, which is the same for all blocks.
        self.emb_layers = nn.Sequential(nn.Identity(), backend.linear(emb_channels, outputs))
        self.out_layers = nn.Sequential(
            backend.group_norm(outputs), nn.SiLU(), nn.Identity(), backend.conv(outputs, outputs, 3)
        )
        self.skip_connection = nn.Identity() if inputs == outputs else backend.conv(inputs, outputs, 1)
        self.spade = SFT(outputs, sft_channels, sft_hidden, backend) if sft_channels else None

    def forward(self, h: Tensor, given: LayerInputs, name: str = "") -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]. A site replaces the result's pixels as tokens [B, H·W, C']."""
        shift = given.shifts[name] if name in given.shifts else self.emb_layers(given.emb)
        out = self.out_layers(self.in_layers(h) + shift[:, :, None, None])
        if given.features is not None and self.spade is not None:
            steered = self.spade(out, given.features[self.level], given.shared.get(name))
            out = steered if given.rows is None else torch.where(given.rows, steered, out)
        out = self.skip_connection(h) + out
        if not (site := given.sites.get(name)):
            return out
        # A block in training is fp32, and the layers after this one may not be.
        tokens = site(rearrange(out, "b c h w -> b (h w) c")).to(out.dtype)
        return rearrange(tokens, "b (h w) c -> b c h w", h=out.shape[-2])


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


class Upsample(Layer):
    """Nearest-neighbour enlargement, to twice the size or to the one that is asked for, and a convolution."""

    def __init__(self, channels: int, backend: Backend) -> None:
        super().__init__()
        self.conv = backend.conv(channels, channels, 3)

    def forward(self, h: Tensor, given: LayerInputs, name: str = "") -> Tensor:
        size = given.size or (2 * h.shape[-2], 2 * h.shape[-1])
        return self.conv(F.interpolate(h, size=size, mode="nearest"))
