"""StableSR's time-aware encoder of the LQ latent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from .blocks import Downsample, ResBlock, time_mlp, timestep_embedding
from .ops import Backend


@dataclass(frozen=True)
class LQEncoderConfig:
    """Sizes of an LQ encoder; the defaults are StableSR's.

    Attributes:
        out_channels: channels of every feature map (the U-Net's `sft_channels`).
        attention_resolutions: the downsampling factors that have attention; the middle always has.
    """

    in_channels: int = 4
    model_channels: int = 256
    out_channels: int = 256
    channel_mult: tuple[int, ...] = (1, 1, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (4, 2, 1)
    num_heads: int = 4
    norm_groups: int = 32

    @classmethod
    def from_ldm(cls, params: Mapping[str, Any]) -> LQEncoderConfig:
        """From the `params` of StableSR's `structcond_stage_config`."""
        return cls(
            in_channels=params["in_channels"],
            model_channels=params["model_channels"],
            out_channels=params["out_channels"],
            channel_mult=tuple(params["channel_mult"]),
            num_res_blocks=params["num_res_blocks"],
            attention_resolutions=tuple(params["attention_resolutions"]),
            num_heads=params["num_heads"],
        )


class AttentionBlock(nn.Module):
    """Self-attention over the pixels, with one projection for q, k and v.

    The published weights hold q, k and v of a head side by side (head first, then q, k, v).
    """

    def __init__(self, channels: int, heads: int, backend: Backend) -> None:
        super().__init__()
        self.heads = heads
        self.attention = backend.attention
        self.norm = backend.group_norm(channels)
        self.qkv = backend.conv1d(channels, 3 * channels)
        self.proj_out = backend.conv1d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        size = x.shape[-2:]
        qkv = self.qkv(self.norm(x).flatten(2)).transpose(1, 2)  # [B, H·W, heads·3·d]
        q, k, v = qkv.unflatten(-1, (self.heads, 3, -1)).unbind(-2)
        h = self.attention(q.flatten(2), k.flatten(2), v.flatten(2), self.heads)
        return x + self.proj_out(h.transpose(1, 2)).unflatten(2, size)


class LQEncoder(nn.Module):
    """LQ latent and time step -> one feature map a level (StableSR section 3.1)."""

    def __init__(self, config: LQEncoderConfig, backend: Backend | None = None) -> None:
        super().__init__()
        backend = replace(backend or Backend(), norm_groups=config.norm_groups)
        self.config = config
        c, emb_channels = config, 4 * config.model_channels
        widths = [c.model_channels * mult for mult in c.channel_mult]

        self.time_embed = time_mlp(c.model_channels, emb_channels, backend)
        blocks: list[list[nn.Module]] = [[backend.conv(c.in_channels, c.model_channels, 3)]]
        channels = c.model_channels
        for level, width in enumerate(widths):
            if level > 0:
                blocks.append([Downsample(channels, backend)])
            for _ in range(c.num_res_blocks):
                layers: list[nn.Module] = [ResBlock(channels, width, emb_channels, backend)]
                if 2**level in c.attention_resolutions:
                    layers.append(AttentionBlock(width, c.num_heads, backend))
                blocks.append(layers)
                channels = width
        self.input_blocks = nn.ModuleList(nn.ModuleList(layers) for layers in blocks)
        self.middle_block = nn.ModuleList(
            [
                ResBlock(channels, channels, emb_channels, backend),
                AttentionBlock(channels, c.num_heads, backend),
                ResBlock(channels, channels, emb_channels, backend),
            ]
        )
        self.fea_tran = nn.ModuleList(
            ResBlock(width, c.out_channels, emb_channels, backend) for width in widths
        )

    def forward(self, lq_latent: Tensor, timesteps: Tensor) -> list[Tensor]:
        """lq_latent [B, in_channels, H, W], original timesteps [B] -> features [B, out_channels, H/2ⁱ, W/2ⁱ]
        of every level i, finest first; sides round up."""
        emb = self.time_embed(timestep_embedding(timesteps, self.config.model_channels).to(lq_latent.dtype))
        h, levels = lq_latent, []
        for layers in self.input_blocks:
            if isinstance(layers[0], Downsample):  # type: ignore[index]
                levels.append(h)
            h = _apply(layers, h, emb)
        levels.append(_apply(self.middle_block, h, emb))
        return [transform(h, emb) for transform, h in zip(self.fea_tran, levels, strict=True)]


def _apply(layers: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    for layer in layers.children():
        h = layer(h, emb) if isinstance(layer, ResBlock) else layer(h)
    return h
