"""DiffBIR's control network: a copy of the U-Net's encoder that sees the LQ latent beside the noisy one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from .blocks import ResBlock
from .conditioning import Conditioning, Residuals, for_rows
from .encoder import TransformerEncoderConfig, UNetEncoder
from .ops import Backend


@dataclass(frozen=True)
class ControlConfig(TransformerEncoderConfig):
    """Sizes of a control network; the defaults are DiffBIR's.

    Attributes:
        in_channels: of the noisy latent and of the hint together.
    """

    in_channels: int = 8


class ControlNetwork(UNetEncoder):
    """Noisy latent, hint, time step and text -> a residual for each skip of the U-Net and for its middle."""

    def __init__(self, config: ControlConfig, backend: Backend | None = None) -> None:
        backend = replace(backend or Backend(), norm_groups=config.norm_groups)

        def res_block(inputs: int, outputs: int, _: int) -> ResBlock:
            return ResBlock(inputs, outputs, config.emb_channels, backend)

        super().__init__(config, res_block, partial(config.attention, backend=backend), backend)
        self.config = config
        self.zero_convs = nn.ModuleList(
            nn.Sequential(backend.conv(width, width, 1)) for width in self.skip_channels
        )
        width = self.skip_channels[-1]
        self.middle_block_out = nn.Sequential(backend.conv(width, width, 1))

    def forward(self, x: Tensor, hint: Tensor, timesteps: Tensor, context: Tensor | None) -> Residuals:
        """x: noisy latent [B, C, H, W]; hint: LQ latent [b, C', H, W], b divides B; timesteps [B]; context
        [B, M, context_dim], which need not be the U-Net's own."""
        seen = torch.cat([x, for_rows(hint, x)], dim=1)
        features = self.encode(seen, self.inputs(self.embed(timesteps, x), context))
        *skips, middle = (
            conv(h) for conv, h in zip((*self.zero_convs, self.middle_block_out), features, strict=True)
        )
        return {"middle": [middle], "output": skips}

    def conditioning(
        self, picture: Tensor, x: Tensor, timesteps: Tensor, context: Tensor | None
    ) -> Conditioning:
        return Conditioning(residuals=[self(x, picture, timesteps, context)])
