"""StableSR's time-aware encoder of the LQ latent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from .attention import AttentionBlock
from .blocks import ResBlock
from .conditioning import Conditioning
from .encoder import EncoderConfig, UNetEncoder
from .layers import Block
from .ops import Backend


@dataclass(frozen=True)
class LQEncoderConfig(EncoderConfig):
    """Sizes of an LQ encoder; the defaults are StableSR's.

    Attributes:
        out_channels: channels of every feature map (the U-Net's `sft_channels`).
    """

    model_channels: int = 256
    channel_mult: tuple[int, ...] = (1, 1, 2, 2)
    out_channels: int = 256
    num_heads: int = 4


class LQEncoder(UNetEncoder):
    """LQ latent and time step -> one feature map a level (StableSR section 3.1)."""

    def __init__(self, config: LQEncoderConfig, backend: Backend | None = None) -> None:
        backend = replace(backend or Backend(), norm_groups=config.norm_groups)

        def res_block(inputs: int, outputs: int, _: int = 0) -> ResBlock:
            return ResBlock(inputs, outputs, config.emb_channels, backend)

        def attention(channels: int) -> AttentionBlock:
            return AttentionBlock(channels, config.num_heads, backend)

        super().__init__(config, res_block, attention, backend)
        self.config = config
        self.fea_tran = Block("fea_tran", *(res_block(width, config.out_channels) for width in config.widths))

    def forward(self, lq_latent: Tensor, timesteps: Tensor) -> list[Tensor]:
        """lq_latent [B, in_channels, H, W], original timesteps [B] -> features [B, out_channels, H/2ⁱ, W/2ⁱ]
        of every level i, finest first; sides round up."""
        given = self.inputs(self.embed(timesteps, lq_latent))
        block_count, levels = self.config.num_res_blocks + 1, len(self.fea_tran)
        # What each level ends with, and after the last one the middle.
        ends = [*range(block_count - 1, block_count * (levels - 1), block_count), block_count * levels]
        features = (h for index, h in enumerate(self.encode(lq_latent, given)) if index in ends)
        named = enumerate(zip(self.fea_tran, features, strict=True))
        return [transform(h, given, f"{self.fea_tran.name}.{level}") for level, (transform, h) in named]

    def rows(self) -> Iterator[Block]:
        yield from super().rows()
        yield self.fea_tran

    def conditioning(
        self, picture: Tensor, x: Tensor, timesteps: Tensor, context: Tensor | None
    ) -> Conditioning:
        return Conditioning(features=self(picture, timesteps[: len(picture)]))
