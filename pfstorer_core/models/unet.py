"""The denoising U-Net: Stable Diffusion 2.1 with SFT in every residual block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .blocks import Downsample, ResBlock, Upsample, time_mlp, timestep_embedding
from .lq_encoder import LQEncoder, LQEncoderConfig
from .ops import Backend, fitted
from .transformer import Site, SpatialTransformer

Control = Mapping[str, Sequence[Tensor | None]]
"""Residuals of a ControlNet: lists under "input", "middle" and "output", last one first used."""


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a U-Net. The defaults are StableSR's: SD 2.1 with SFT.

    Attributes:
        channel_mult: width of each level as a multiple of `model_channels`.
        attention_resolutions: the downsampling factors (1, 2, 4, …) that have transformers.
        norm_groups: of group normalization. Where a layer has but a channel or two a group, the level of
            its features is lost: narrow networks want fewer.
        sft_channels: channels of the LQ features; 0 builds plain Stable Diffusion without SFT.
        sft_hidden: hidden width of the SFT layers.
        lq_encoder: sizes of the time-aware LQ encoder, which is then a part of the U-Net.
    """

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (4, 2, 1)
    num_head_channels: int = 64
    context_dim: int = 1024
    transformer_depth: int = 1
    norm_groups: int = 32
    sft_channels: int = 256
    sft_hidden: int = 128
    lq_encoder: LQEncoderConfig | None = None

    @classmethod
    def from_ldm(cls, params: Mapping[str, Any]) -> UNetConfig:
        """From the `params` of a latent-diffusion `unet_config` (extra entries are training matters)."""
        if not (params.get("use_spatial_transformer") and params.get("use_linear_in_transformer")):
            raise ValueError("Only Stable Diffusion 2.x U-Nets (linear spatial transformers) are supported.")
        return cls(
            in_channels=params["in_channels"],
            out_channels=params["out_channels"],
            model_channels=params["model_channels"],
            channel_mult=tuple(params["channel_mult"]),
            num_res_blocks=params["num_res_blocks"],
            attention_resolutions=tuple(params["attention_resolutions"]),
            num_head_channels=params["num_head_channels"],
            context_dim=params["context_dim"],
            transformer_depth=params.get("transformer_depth", 1),
            sft_channels=params.get("semb_channels", 0),
        )


@dataclass(frozen=True)
class BlockHooks:
    """Optional callbacks between blocks, by which a host lets its users patch the network.

    `emb(emb)`, `input(h)` before and `after_skip(h)` after h is kept for the decoder,
    `middle(h, emb)`, `output(h, skip) -> (h, skip)`; each but `output` returns its first argument's
    replacement.
    """

    emb: Callable[[Tensor], Tensor] | None = None
    input: Callable[[Tensor], Tensor] | None = None
    after_skip: Callable[[Tensor], Tensor] | None = None
    middle: Callable[[Tensor, Tensor], Tensor] | None = None
    output: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


NO_HOOKS = BlockHooks()


@dataclass
class Conditions:
    """What every block of one evaluation sees."""

    emb: Tensor
    context: Tensor | None
    lq_features: list[Tensor] | None
    where: dict[str, Any]
    personalization: Mapping[str, Site] = field(default_factory=dict)


class Block(nn.ModuleList):
    """One numbered block of the U-Net: a few layers in a row.

    `recompute`: forget what is inside the block until its gradients are asked for (Chen et al. 2016).
    """

    recompute = False

    def __init__(self, name: str, *layers: nn.Module) -> None:
        super().__init__(layers)
        self.name = name

    def forward(self, h: Tensor, given: Conditions, size: tuple[int, int] | None = None) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._run, h, given, size, use_reentrant=False)
        return self._run(h, given, size)

    def _run(self, h: Tensor, given: Conditions, size: tuple[int, int] | None) -> Tensor:
        for index, layer in enumerate(self):
            site = given.personalization.get(f"{self.name}.{index}")
            if isinstance(layer, ResBlock):
                h = layer(h, given.emb, given.lq_features, site)
            elif isinstance(layer, SpatialTransformer):
                h = layer(h, given.context, given.where, site)
            elif isinstance(layer, Upsample):
                h = layer(h, size or (2 * h.shape[-2], 2 * h.shape[-1]))
            else:
                h = layer(h)
        return h


class UNet(nn.Module):
    """Predicts eps or v from a noisy latent, a text context and the features of the LQ latent.

    Parameter names are Stable Diffusion's own, so that checkpoints and LoRAs map.
    """

    def __init__(self, config: UNetConfig, backend: Backend | None = None) -> None:
        super().__init__()
        backend = replace(backend or Backend(), norm_groups=config.norm_groups)
        self.config = config
        c, emb_channels = config, 4 * config.model_channels

        def res_block(inputs: int, outputs: int, level: int) -> ResBlock:
            return ResBlock(inputs, outputs, emb_channels, backend, level, c.sft_channels, c.sft_hidden)

        def transformer(channels: int) -> SpatialTransformer:
            return SpatialTransformer(
                channels, c.num_head_channels, c.context_dim, c.transformer_depth, backend
            )

        def layers(inputs: int, outputs: int, level: int) -> list[nn.Module]:
            attends = 2**level in c.attention_resolutions
            return [res_block(inputs, outputs, level), *([transformer(outputs)] if attends else [])]

        self.time_embed = time_mlp(c.model_channels, emb_channels, backend)
        widths = [c.model_channels * mult for mult in c.channel_mult]
        last = len(widths) - 1

        encoder: list[list[nn.Module]] = [[backend.conv(c.in_channels, c.model_channels, 3)]]
        channels, skips = c.model_channels, [c.model_channels]
        for level, width in enumerate(widths):
            for _ in range(c.num_res_blocks):
                encoder.append(layers(channels, width, level))
                channels = width
                skips.append(channels)
            if level < last:
                encoder.append([Downsample(channels, backend)])
                skips.append(channels)
        self.input_blocks = _numbered("input_blocks", encoder)

        self.middle_block = Block(
            "middle_block",
            res_block(channels, channels, last),
            transformer(channels),
            res_block(channels, channels, last),
        )

        decoder: list[list[nn.Module]] = []
        for level, width in reversed(list(enumerate(widths))):
            for i in range(c.num_res_blocks + 1):
                decoder.append(layers(channels + skips.pop(), width, level))
                channels = width
                if level > 0 and i == c.num_res_blocks:
                    decoder[-1].append(Upsample(channels, backend))
        self.output_blocks = _numbered("output_blocks", decoder)

        self.out = nn.Sequential(
            backend.group_norm(channels), nn.SiLU(), backend.conv(channels, c.out_channels, 3)
        )
        self.lq_encoder = LQEncoder(c.lq_encoder, backend) if c.lq_encoder else None

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        lq_features: list[Tensor] | None = None,
        *,
        lq_latent: Tensor | None = None,
        control: Control | None = None,
        personalization: Mapping[str, Site] | None = None,
        learn_from: int | None = None,
        until: int | None = None,
        hooks: BlockHooks = NO_HOOKS,
        where: dict[str, Any] | None = None,
    ) -> Tensor:
        """One evaluation (StableSR figure 2; PFStorer figure 3).

        Args:
            x: noisy latent [B, in_channels, H, W], any H and W.
            timesteps: original time steps [B], 0…999.
            context: text context [B, M, context_dim].
            lq_features: of `LQEncoder`, finest level first; None leaves SFT out, which makes this
                exactly Stable Diffusion.
            lq_latent: [b, in_channels, H, W], instead of `lq_features`: they are computed here. b is B,
                or divides it where rows i, i + b, i + 2b, … share LQ picture and time step.
            control: see `Control`. The lists are not changed.
            personalization: per site, a transformer or residual block by its name ("output_blocks.4.1"), what
                replaces the site's tokens.
            learn_from: number of the first output block whose attention to the text gives gradients to
                `context`; None for all.
            until: number of the output block whose features are wanted; nothing after it is computed.
            hooks: see `BlockHooks`.
            where: a dict in which the network keeps its place ("block", "block_index",
                "transformer_index", "activations_shape", "original_shape") and which it hands to
                the transformer blocks: ComfyUI's `transformer_options`.
        Returns:
            [B, out_channels, H, W]; with `until` that block's features.
        """
        if lq_latent is not None:
            lq_features = self.encode_lq(lq_latent, timesteps[: len(lq_latent)])
        where = {} if where is None else where
        where.update(original_shape=list(x.shape), transformer_index=0)
        residuals = {name: list(residual) for name, residual in (control or {}).items()}

        emb = self.time_embed(timestep_embedding(timesteps, self.config.model_channels).to(x.dtype))
        if hooks.emb:
            emb = hooks.emb(emb)
        silent = context.detach() if context is not None and learn_from is not None else context
        given = Conditions(emb, silent, lq_features, where, personalization or {})

        h, skips = x, []
        for index, block in enumerate(self.input_blocks):
            where["block"] = ("input", index)
            h = _add(block(h, given), residuals.get("input"))
            if hooks.input:
                h = hooks.input(h)
            skips.append(h)
            if hooks.after_skip:
                h = hooks.after_skip(h)

        where["block"] = ("middle", 0)
        h = _add(self.middle_block(h, given), residuals.get("middle"))
        if hooks.middle:
            h = hooks.middle(h, emb)

        for index, block in enumerate(self.output_blocks):
            where["block"] = ("output", index)
            if index == learn_from:
                given = replace(given, context=context)
            skip = _add(skips.pop(), residuals.get("output"))
            if hooks.output:
                h, skip = hooks.output(h, skip)
            size = skips[-1].shape[-2:] if skips else None  # an odd side was rounded up on the way down
            h = block(torch.cat([h, skip], dim=1), given, size)
            if index == until:
                return h

        return self.out(h)

    def checkpoint_gradients(self, on: bool = True) -> None:
        """Trade a second forward pass of every block for the memory of its activations, in training."""
        for module in self.modules():
            if isinstance(module, Block):
                module.recompute = on

    def encode_lq(self, lq_latent: Tensor, timesteps: Tensor) -> list[Tensor]:
        """The LQ features that `forward` takes; raises ValueError where this U-Net has no LQ encoder."""
        if self.lq_encoder is None:
            raise ValueError(
                "An LQ latent was given, but this U-Net has no LQ encoder: load a StableSR restorer."
            )
        return self.lq_encoder(lq_latent, timesteps)


def _numbered(name: str, blocks: list[list[nn.Module]]) -> nn.ModuleList:
    return nn.ModuleList(Block(f"{name}.{index}", *layers) for index, layers in enumerate(blocks))


def _add(h: Tensor, residuals: list[Tensor | None] | None) -> Tensor:
    residual = residuals.pop() if residuals else None
    return h if residual is None else h + fitted(residual, h)
