"""The denoising U-Net: Stable Diffusion 2.1 with SFT in every residual block, and its relatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import ResBlock, Upsample
from .conditioning import UNCONDITIONED, Concatenation, Conditioner, Conditioning, nothing_beside
from .control import ControlConfig, ControlNetwork
from .encoder import TransformerEncoderConfig, UNetEncoder, numbered
from .layers import NO_HOOKS, NO_SITES, Block, BlockHooks, Site
from .lq_encoder import LQEncoder, LQEncoderConfig
from .ops import Backend, fitted
from .packing import jointly


@dataclass(frozen=True)
class UNetConfig(TransformerEncoderConfig):
    """Sizes of a U-Net. The defaults are StableSR's: SD 2.1 with SFT.

    Attributes:
        in_channels: of the noisy latent, and of what is put beside it.
        sft_channels: channels of the LQ features; 0 builds plain Stable Diffusion without SFT.
        sft_hidden: hidden width of the SFT layers.
        lq_encoder, control: sizes of the time-aware LQ encoder or of the control network, which is then a
            part of the U-Net and reads its condition.
    """

    out_channels: int = 4
    sft_channels: int = 256
    sft_hidden: int = 128
    lq_encoder: LQEncoderConfig | None = None
    control: ControlConfig | None = None

    @property
    def attention_widths(self) -> list[int]:
        """Channels of all self-attentions of a level together, from the finest level."""
        last, each = len(self.channel_mult) - 1, self.transformer_depth if self.context_dim else 1
        return [
            each * width * ((2 * self.num_res_blocks + 1) * self.attends(level) + (level == last))
            for level, width in enumerate(self.widths)
        ]


class UNet(UNetEncoder):
    """Predicts eps or v from a noisy latent, a text context and the LQ latent.

    Parameter names are Stable Diffusion's own, so that checkpoints and LoRAs map.
    """

    def __init__(self, config: UNetConfig, backend: Backend | None = None) -> None:
        c, backend = config, replace(backend or Backend(), norm_groups=config.norm_groups)

        def res_block(inputs: int, outputs: int, level: int) -> ResBlock:
            return ResBlock(inputs, outputs, c.emb_channels, backend, level, c.sft_channels, c.sft_hidden)

        attention = partial(c.attention, backend=backend)
        super().__init__(c, res_block, attention, backend)
        self.config = config

        decoder: list[list[nn.Module]] = []
        channels, skips = self.skip_channels[-1], list(self.skip_channels)
        for level, width in reversed(list(enumerate(c.widths))):
            for i in range(c.num_res_blocks + 1):
                layers: list[nn.Module] = [res_block(channels + skips.pop(), width, level)]
                if c.attends(level):
                    layers.append(attention(width))
                if level > 0 and i == c.num_res_blocks:
                    layers.append(Upsample(width, backend))
                decoder.append(layers)
                channels = width
        self.output_blocks = numbered("output_blocks", decoder)

        self.out = nn.Sequential(
            backend.group_norm(channels), nn.SiLU(), backend.conv(channels, c.out_channels, 3)
        )
        self.lq_encoder = LQEncoder(c.lq_encoder, backend) if c.lq_encoder else None
        self.control_model = ControlNetwork(c.control, backend) if c.control else None

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        condition: Tensor | Conditioning | None = None,
        sites: Mapping[str, Site] = NO_SITES,
        hooks: BlockHooks = NO_HOOKS,
        condition_context: Tensor | None = None,
        condition_rows: int = 0,
    ) -> Tensor:
        """One evaluation (StableSR figure 2; PFStorer figure 3).

        Args:
            x: noisy latent [B, C, H, W], any H and W.
            timesteps: original time steps [B], 0…999.
            context: text context [B, M, context_dim]; None where the network reads no text.
            condition: the LQ latent [b, C, H, W], b divides B, or what `conditioning` made of it; None leaves
                it out, which makes this exactly Stable Diffusion; channels beside the latent are zeros then.
            sites: per site, a layer by its name ("output_blocks.4.1"), what replaces the site's tokens.
            hooks: see `BlockHooks`.
            condition_context: what a control network reads in place of `context`; None for the same.
            condition_rows: how many of the first rows see the condition, the others nothing; 0: all.
        Returns:
            [B, out_channels, H, W]; with `hooks.until` that block's features.
        """
        beside = self.conditioning(condition, x, timesteps, context, condition_context, condition_rows)
        residuals = [{part: list(each) for part, each in given.items()} for given in beside.residuals]
        emb = self.embed(timesteps, x)
        if hooks.emb:
            emb = hooks.emb(emb)
        given = self.inputs(
            emb, context, features=beside.features, sites=sites, hooks=hooks, rows=beside.rows,
            shared=self.shared(beside.features),
        )  # fmt: skip

        h = x if beside.channels is None else torch.cat([x, beside.channels], dim=1)
        skips: list[Tensor] = []
        for block in _blocks(self.input_blocks):
            h = _add(block(h, given.for_block(block.name)), residuals, "input")
            if hooks.input:
                h = hooks.input(h)
            skips.append(h)
            if hooks.after_skip:
                h = hooks.after_skip(h)

        h = _add(self.middle_block(h, given.for_block("middle_block")), residuals, "middle")
        if hooks.middle:
            h = hooks.middle(h, emb)

        for block in _blocks(self.output_blocks):
            seen = given.for_block(block.name)
            skip = _add(skips.pop(), residuals, "output")
            if hooks.output:
                h, skip = hooks.output(h, skip)
            if skips:  # an odd side was rounded up on the way down
                seen = replace(seen, size=skips[-1].shape[-2:])
            h = block(torch.cat([h, skip], dim=1), seen)
            if block.name == hooks.until:
                return h

        return self.out(h)

    @property
    def conditioner(self) -> Conditioner:
        """What reads the condition: the LQ encoder, the control network or, without either, the first
        convolution, as further channels."""
        return self.lq_encoder or self.control_model or Concatenation(self.config.in_channels)

    def conditioning(
        self,
        condition: Tensor | Conditioning | None,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        condition_context: Tensor | None = None,
        condition_rows: int = 0,
    ) -> Conditioning:
        """What `forward` makes of its condition, for several evaluations of the same x and time steps.

        Raises:
            ValueError: a condition that this U-Net has no way to read.
        """
        if condition is None:
            empty = self.config.in_channels - x.shape[1]
            return nothing_beside(x, empty) if empty > 0 else UNCONDITIONED
        if isinstance(condition, Conditioning):
            return condition
        read = context if condition_context is None else condition_context
        if not condition_rows:
            return self.conditioner.conditioning(condition, x, timesteps, read)
        some = slice(condition_rows)
        read = read if read is None else read[some]
        return self.conditioner.conditioning(condition, x[some], timesteps[some], read).of_first(len(x))

    def rows(self) -> Iterator[Block]:
        yield from super().rows()
        yield from _blocks(self.output_blocks)

    def joint_layers(self) -> list[Sequence[nn.Module]]:
        return [*super().joint_layers(), *(list(row.values()) for row in self._readers().values())]

    def shared(self, features: Sequence[Tensor] | None) -> Mapping[str, Tensor]:
        """What the SFTs of a level make of its features, by the names of their residual blocks, where one
        convolution can tell."""
        found: dict[str, Tensor] = {}
        if features is None:
            return found
        for level, row in self._readers().items():
            if hidden := jointly(list(row.values()), features[level], F.relu):
                found |= dict(zip(row, hidden, strict=True))
        return found

    def _readers(self) -> dict[int, dict[str, nn.Module]]:
        """The first convolution of each SFT by the name of its residual block, by levels."""
        found: dict[int, dict[str, nn.Module]] = {}
        for name, block in self.res_blocks().items():
            if block.spade is not None:
                found.setdefault(block.level, {})[name] = block.spade.mlp_shared[0]
        return found

    def checkpoint_gradients(self, on: bool = True) -> None:
        """Trade a second forward pass of every block, the control network's among them, for the memory of its
        activations, in training."""
        encoders: list[UNetEncoder] = [self, *([self.control_model] if self.control_model else [])]
        rows = [row for one in encoders for row in (one.input_blocks, [one.middle_block])]
        for block in (block for row in (*rows, self.output_blocks) for block in row):
            block.recompute = on  # type: ignore[union-attr]


def _blocks(row: nn.ModuleList) -> Sequence[Block]:
    return cast("Sequence[Block]", row)


def _add(h: Tensor, residuals: Sequence[dict[str, list[Tensor | None]]], part: str) -> Tensor:
    for each in residuals:
        residual = each[part].pop() if each.get(part) else None
        if residual is not None:
            h = h + fitted(residual, h)
    return h
