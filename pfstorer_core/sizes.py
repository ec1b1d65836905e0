"""Sizes of networks, told from their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from .layouts import PREFIXES, CheckpointError, StateDict
from .models import AutoencoderConfig, LQEncoderConfig, TextTowerConfig, UNetConfig


def unet_config(tensors: Mapping[str, Tensor], num_head_channels: int = 64) -> UNetConfig:
    """Sizes of the U-Net of a state dict without prefix; the head width is not in the tensors."""
    if "input_blocks.0.0.weight" not in tensors:
        raise CheckpointError(_absent("U-Net", PREFIXES["unet"] + "input_blocks.0.0.weight"))
    first = tensors["input_blocks.0.0.weight"]
    model_channels = first.shape[0]
    mult, resolutions, blocks = _levels(tensors)
    shared = tensors.get("input_blocks.1.0.spade.mlp_shared.0.weight")
    transformer = next(
        (key for key in tensors if key.endswith("transformer_blocks.0.attn2.to_k.weight")), None
    )
    if transformer is None:
        raise CheckpointError(_absent("U-Net", "…transformer_blocks.0.attn2.to_k.weight"))
    depths = [int(m[1]) for key in tensors if (m := re.search(r"transformer_blocks\.(\d+)\.", key))]
    return UNetConfig(
        in_channels=first.shape[1],
        out_channels=tensors["out.2.weight"].shape[0],
        model_channels=model_channels,
        channel_mult=tuple(width // model_channels for width in mult),
        num_res_blocks=blocks,
        attention_resolutions=resolutions,
        num_head_channels=num_head_channels,
        context_dim=tensors[transformer].shape[1],
        transformer_depth=max(depths) + 1,
        sft_channels=0 if shared is None else shared.shape[1],
        sft_hidden=0 if shared is None else shared.shape[0],
    )


def lq_encoder_config(tensors: Mapping[str, Tensor], num_heads: int = 4) -> LQEncoderConfig:
    """Sizes of StableSR's LQ encoder; the number of heads is not in the tensors."""
    first = tensors["input_blocks.0.0.weight"]
    widths, resolutions, blocks = _levels(tensors)
    return LQEncoderConfig(
        in_channels=first.shape[1],
        model_channels=first.shape[0],
        out_channels=tensors["fea_tran.0.out_layers.3.weight"].shape[0],
        channel_mult=tuple(width // first.shape[0] for width in widths),
        num_res_blocks=blocks,
        attention_resolutions=resolutions,
        num_heads=num_heads,
    )


def _levels(tensors: Mapping[str, Tensor]) -> tuple[list[int], tuple[int, ...], int]:
    """Width of each level, factors with attention, and residual blocks a level of an LDM encoder."""
    widths: list[list[int]] = [[]]
    resolutions: list[int] = []
    for index in range(1, 1 + max(_numbers(tensors, r"^input_blocks\.(\d+)\."))):
        if f"input_blocks.{index}.0.op.weight" in tensors:
            widths.append([])
            continue
        widths[-1].append(tensors[f"input_blocks.{index}.0.out_layers.3.weight"].shape[0])
        if f"input_blocks.{index}.1.norm.weight" in tensors:
            resolutions.append(2 ** (len(widths) - 1))
    return (
        [level[0] for level in widths],
        tuple(sorted(set(resolutions), reverse=True)),
        len(widths[0]),
    )


def autoencoder_config(tensors: Mapping[str, Tensor]) -> AutoencoderConfig:
    """Sizes of a KL autoencoder with or without CFW."""
    if "encoder.conv_in.weight" not in tensors:
        raise CheckpointError(_absent("autoencoder", PREFIXES["autoencoder"] + "encoder.conv_in.weight"))
    ch = tensors["encoder.conv_in.weight"].shape[0]
    levels = sorted(set(_numbers(tensors, r"^encoder\.down\.(\d+)\.")))
    return AutoencoderConfig(
        in_channels=tensors["encoder.conv_in.weight"].shape[1],
        out_ch=tensors["decoder.conv_out.weight"].shape[0],
        ch=ch,
        ch_mult=tuple(
            tensors[f"encoder.down.{level}.block.0.conv2.weight"].shape[0] // ch for level in levels
        ),
        num_res_blocks=1 + max(_numbers(tensors, r"^encoder\.down\.0\.block\.(\d+)\.")),
        z_channels=tensors["decoder.conv_in.weight"].shape[1],
        embed_dim=tensors["post_quant_conv.weight"].shape[1],
        cfw=any(key.startswith("decoder.fusion_layer_") for key in tensors),
    )


def _numbers(keys: Iterable[str], pattern: str) -> list[int]:
    return [int(match[1]) for key in keys if (match := re.search(pattern, key))]


def _absent(what: str, key: str) -> str:
    return (
        f"This checkpoint has no {what}: expected keys such as {key}. Is it a StableSR or PFStorer restorer?"
    )


_UNUSED_BY_TEXT = ("text_projection", "logit_scale", "attn_mask", "position_ids")
"""What checkpoints keep beside the text tower: CLIP's way to pictures, and buffers of other versions."""


def text_weights(tensors: Mapping[str, Tensor]) -> StateDict:
    """The state dict without prefix of a text tower, less what the tower has no use for."""
    return {key: value for key, value in tensors.items() if not key.endswith(_UNUSED_BY_TEXT)}


def text_config(tensors: Mapping[str, Tensor], num_head_channels: int = 64) -> TextTowerConfig:
    """Sizes of the text tower of a state dict without prefix; the head width is not in the tensors."""
    layers = set(_numbers(tensors, r"^model\.transformer\.resblocks\.(\d+)\."))
    if "model.token_embedding.weight" not in tensors or not layers:
        raise CheckpointError(
            _absent("OpenCLIP text tower", PREFIXES["text"] + "model.token_embedding.weight")
        )
    vocab, width = tensors["model.token_embedding.weight"].shape
    return TextTowerConfig(
        width=width,
        heads=width // num_head_channels,
        layers=1 + max(layers),
        vocab=vocab,
        context_length=tensors["model.positional_embedding"].shape[0],
    )
