"""The layers of a U-Net that a LoRA can change: low-rank deltas, names, and resolutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...models import UNet, UNetConfig
from ...models.blocks import Upsample

DIFFUSERS_RESNET = {
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""Layers of a residual block in diffusers' words."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """ΔW = alpha / rank · up · down, added to a weight W (Hu et al. 2021, section 4.1).

    Attributes:
        up: [out, rank], or [out, rank, 1, 1] of a convolution.
        down: [rank, in], or [rank, in, kh, kw].
    """

    up: Tensor
    down: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return len(self.down)

    def delta(self, weight: Tensor) -> Tensor:
        """ΔW in the shape and number format of W."""
        product = self.up.flatten(1) @ self.down.flatten(1)
        return (self.alpha / self.rank * product).view_as(weight).to(weight)

    def fits(self, weight: Tensor) -> bool:
        return len(self.up) == len(weight) and self.down[0].numel() == weight[0].numel()

    def scaled(self, strength: float) -> LowRank:
        return replace(self, alpha=strength * self.alpha)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> LowRank:
        return replace(self, up=self.up.to(device, dtype), down=self.down.to(device, dtype))


def changeable(unet: nn.Module) -> dict[str, Tensor]:
    """The weights of all linear layers and 2-D convolutions, by the names of these layers."""
    suffix = ".weight"
    return {
        name.removesuffix(suffix): weight
        for name, weight in unet.named_parameters()
        if name.endswith(suffix) and weight.ndim in (2, 4)
    }


def flat(layer: str) -> str:
    """A layer's name as kohya writes it, without points."""
    return layer.replace(".", "_")


def known_names(unet: UNet) -> dict[str, str]:
    """The layers that can be changed by what files call them, `flat`: by Stable Diffusion's own name, which
    is ours, and by that of diffusers."""
    layers = changeable(unet)
    names = {flat(layer): layer for layer in layers}
    for block, theirs in _diffusers_blocks(unet).items():
        for layer in layers:
            if layer == block or layer.startswith(f"{block}."):
                inner = layer[len(block) :].removeprefix(".")
                inner = DIFFUSERS_RESNET.get(inner, inner) if ".resnets." in theirs else inner
                names[flat(f"{theirs}.{inner}".removesuffix("."))] = layer
    suffix = "_to_out_0"  # which older files of diffusers leave out
    older = {name[: -len("_0")]: layer for name, layer in names.items() if name.endswith(suffix)}
    return names | older


def _diffusers_blocks(unet: UNet) -> dict[str, str]:
    """Parts of the U-Net by diffusers' names for them (`UNet2DConditionModel`)."""
    blocks = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0",
        "middle_block.2": "mid_block.resnets.1",
        "out.2": "conv_out",
    }
    a_level = unet.config.num_res_blocks + 1
    for number in range(1, len(unet.input_blocks)):
        level, place = divmod(number, a_level)
        if place:
            blocks[f"input_blocks.{number}.0"] = f"down_blocks.{level}.resnets.{place - 1}"
            blocks[f"input_blocks.{number}.1"] = f"down_blocks.{level}.attentions.{place - 1}"
        else:
            blocks[f"input_blocks.{number}.0.op"] = f"down_blocks.{level - 1}.downsamplers.0.conv"
    for number, block in enumerate(unet.output_blocks):
        level, place = divmod(number, a_level)
        for index, layer in enumerate(block.children()):
            kind = "resnets" if index == 0 else "attentions"
            theirs = "upsamplers.0" if isinstance(layer, Upsample) else f"{kind}.{place}"
            blocks[f"output_blocks.{number}.{index}"] = f"up_blocks.{level}.{theirs}"
    return blocks


def feature_scale(sizes: UNetConfig, layer: str) -> int | None:
    """How much smaller than the latent the features are that a layer of the U-Net, or a parameter, acts on:
    1, 2, 4, …; None for what is in none of its blocks: the time embedding and the LQ encoder."""
    part, *rest = layer.split(".")
    last, a_level = len(sizes.channel_mult) - 1, sizes.num_res_blocks + 1
    if part == "input_blocks":
        return 2 ** (max(int(rest[0]) - 1, 0) // a_level)
    if part == "output_blocks":
        return 2 ** (last - int(rest[0]) // a_level)
    return {"middle_block": 2**last, "out": 1}.get(part)


def factor_at(scale: int | None, factors: Mapping[int, float]) -> float:
    """Of the features of a scale, see `feature_scale`. What is smaller than the last factor's has that one;
    1 where there is none. What is in no block acts as far as anything does: by the largest, but no more than
    it has learned."""
    if not factors:
        return 1.0
    if scale is None:
        return min(1.0, max(factors.values())) if 1 in factors else 1.0
    return factors.get(min(scale, max(factors)), 1.0)
