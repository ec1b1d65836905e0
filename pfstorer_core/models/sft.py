"""Spatial feature transform: how the LQ features steer a frozen Stable Diffusion block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from .ops import Backend, fitted
from .packing import each


class SFT(nn.Module):
    """``GN(h)·(1 + gamma(f)) + beta(f)`` (StableSR eq. 2; SPADE with an affine GroupNorm).

    The names are those of the published weights; in spite of its name `param_free_norm` is affine.
    """

    def __init__(self, channels: int, feature_channels: int, hidden: int, backend: Backend) -> None:
        super().__init__()
        self.param_free_norm = backend.group_norm(channels)
        self.mlp_shared = nn.Sequential(backend.conv(feature_channels, hidden, 3), nn.ReLU())
        self.mlp_gamma = backend.conv(hidden, channels, 3)
        self.mlp_beta = backend.conv(hidden, channels, 3)

    def joint_layers(self) -> list[Sequence[nn.Module]]:
        return [(self.mlp_gamma, self.mlp_beta)]

    def forward(self, h: Tensor, features: Tensor, shared: Tensor | None = None) -> Tensor:
        """h [B, C, H, W], features [b, F, H, W], of this size or brought to it -> [B, C, H, W].
        `shared`: what `mlp_shared` made of the features, where that is known.

        b divides B: where rows of a batch share their LQ picture, as those of classifier-free guidance
        do, gamma and beta are computed once; row i steers the rows i, i + b, i + 2b, …
        """
        if shared is None or shared.shape[-2:] != h.shape[-2:]:
            shared = cast(Tensor, self.mlp_shared(fitted(features, h)))
        gamma, beta = each((self.mlp_gamma, self.mlp_beta), shared)
        h = rearrange(self.param_free_norm(h), "(rows b) c h w -> rows b c h w", b=len(features))
        return rearrange(torch.addcmul(h + beta, h, gamma), "rows b c h w -> (rows b) c h w")
