"""The encoder of latent diffusion's U-Net, which the LQ encoder and the control network have, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionBlock
from .blocks import Downsample, ResBlock, time_mlp, timestep_embedding
from .layers import Block, LayerInputs
from .ops import Backend
from .packing import jointly
from .transformer import SpatialTransformer


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder.

    Attributes:
        channel_mult: width of each level as a multiple of `model_channels`.
        attention_resolutions: the downsampling factors (1, 2, 4, …) that have attention; the middle always
            has.
        norm_groups: of group normalization. Where a layer has but a channel or two a group, the level of
            its features is lost: narrow networks want fewer.
    """

    in_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (4, 2, 1)
    norm_groups: int = 32

    @property
    def widths(self) -> list[int]:
        return [self.model_channels * mult for mult in self.channel_mult]

    @property
    def emb_channels(self) -> int:
        """Width of the time embedding."""
        return 4 * self.model_channels

    def attends(self, level: int) -> bool:
        return 2**level in self.attention_resolutions


@dataclass(frozen=True)
class TransformerEncoderConfig(EncoderConfig):
    """Sizes of an encoder whose attention has heads of one width and may read a text.

    Attributes:
        context_dim: width of the text context; 0: none, and plain self-attention in place of transformers.
        transformer_depth: blocks of a transformer.
    """

    num_head_channels: int = 64
    context_dim: int = 1024
    transformer_depth: int = 1

    def attention(self, channels: int, backend: Backend) -> nn.Module:
        """A layer of this width."""
        if self.context_dim:
            sizes = (self.num_head_channels, self.context_dim, self.transformer_depth)
            return SpatialTransformer(channels, *sizes, backend)
        return AttentionBlock(channels, channels // self.num_head_channels, backend)


class UNetEncoder(nn.Module):
    """Time embedding, input blocks and middle block, under Stable Diffusion's names."""

    def __init__(
        self,
        config: EncoderConfig,
        res_block: Callable[[int, int, int], nn.Module],
        attention: Callable[[int], nn.Module],
        backend: Backend,
    ) -> None:
        """
        Args:
            res_block: makes one of (channels in, channels out, level). attention: makes one of a width.
        """
        super().__init__()
        c = config
        self.time_embed = time_mlp(c.model_channels, c.emb_channels, backend)
        blocks: list[list[nn.Module]] = [[backend.conv(c.in_channels, c.model_channels, 3)]]
        channels, self.skip_channels = c.model_channels, [c.model_channels]
        for level, width in enumerate(c.widths):
            if level > 0:
                blocks.append([Downsample(channels, backend)])
                self.skip_channels.append(channels)
            for _ in range(c.num_res_blocks):
                layers = [res_block(channels, width, level)]
                if c.attends(level):
                    layers.append(attention(width))
                blocks.append(layers)
                channels = width
                self.skip_channels.append(channels)
        self.input_blocks = numbered("input_blocks", blocks)
        last = len(c.widths) - 1
        middle = [
            res_block(channels, channels, last),
            attention(channels),
            res_block(channels, channels, last),
        ]
        self.middle_block = Block("middle_block", *middle)
        self.model_channels = c.model_channels

    def embed(self, timesteps: Tensor, x: Tensor) -> Tensor:
        """Time steps [B] -> embedding [B, E] in the number format of x."""
        return self.time_embed(timestep_embedding(timesteps, self.model_channels).to(x.dtype))

    def rows(self) -> Iterator[Block]:
        """Its blocks, and whatever else has residual blocks in a row."""
        yield from cast("Iterable[Block]", self.input_blocks)
        yield self.middle_block

    def res_blocks(self) -> dict[str, ResBlock]:
        """By the names that they are called by."""
        layers = ((f"{row.name}.{index}", layer) for row in self.rows() for index, layer in enumerate(row))
        return {name: layer for name, layer in layers if isinstance(layer, ResBlock)}

    def joint_layers(self) -> list[Sequence[nn.Module]]:
        return [[block.emb_layers[1] for block in self.res_blocks().values()]]

    def inputs(self, emb: Tensor, context: Tensor | None = None, **given: Any) -> LayerInputs:
        """What the layers see of an evaluation: the embedding behind its SiLU, and what the residual blocks
        make of that, where one product can tell."""
        emb, blocks = F.silu(emb), self.res_blocks()
        shifts = jointly([block.emb_layers[1] for block in blocks.values()], emb)
        known = dict(zip(blocks, shifts, strict=True)) if shifts else {}
        return LayerInputs(emb, context, shifts=known, **given)

    def encode(self, h: Tensor, given: LayerInputs) -> Iterator[Tensor]:
        """The features after each input block, then those of the middle block."""
        for block in (*self.input_blocks, self.middle_block):
            h = block(h, given)
            yield h


def numbered(name: str, blocks: list[list[nn.Module]]) -> nn.ModuleList:
    return nn.ModuleList(Block(f"{name}.{index}", *layers) for index, layers in enumerate(blocks))
