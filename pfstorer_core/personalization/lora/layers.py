"""What files of LoRAs call the layers of a U-Net."""

from __future__ import annotations

from ...models import UNet
from ...models.blocks import Upsample
from ..weights import changeable

DIFFUSERS_RESNET = {
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""Layers of a residual block in diffusers' words."""


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
