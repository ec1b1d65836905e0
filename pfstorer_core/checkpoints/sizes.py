"""Sizes of networks, told from their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial

from torch import Tensor

from ..models import AutoencoderConfig, LQEncoderConfig, TextTowerConfig, UNetConfig
from .layouts import PREFIXES, CheckpointError, StateDict

NETWORKS = {
    "unet": "U-Net",
    "lq_encoder": "LQ encoder",
    "autoencoder": "autoencoder",
    "text": "OpenCLIP text tower",
}
"""What errors call the networks of `PREFIXES`."""

SHORTEST_TEXT, LONGEST_TEXT = 3, 512
"""Tokens: the memory of attention grows with their square."""

GROUPS = 32
"""Of Stable Diffusion's group normalization: what all widths are multiples of."""


def unet_config(
    tensors: Mapping[str, Tensor], num_head_channels: int = 64, norm_groups: int = GROUPS
) -> UNetConfig:
    """Sizes of the U-Net of a state dict without prefix; the head width and the groups of normalization are
    not in the tensors.

    This and the others raise CheckpointError where a tensor that tells a size is missing or cannot be.
    """
    size = partial(_size, "unet", tensors)
    model_channels, in_channels, *_ = size("input_blocks.0.0.weight", 4)
    multiples, resolutions, blocks = _levels("unet", tensors)
    sft = "input_blocks.1.0.spade.mlp_shared.0.weight"
    sft_hidden, sft_channels, *_ = size(sft, 4) if sft in tensors else (0, 0)
    # The middle block always attends.
    depth = _count("unet", tensors, "middle_block.1.transformer_blocks.")
    _affordable("unet", tensors, depth * blocks * (1 + 2 * len(resolutions)))
    attending = [m for level, m in enumerate(multiples) if 2**level in resolutions]
    _divides(
        "unet",
        "attention heads",
        num_head_channels,
        [model_channels * m for m in (*attending, multiples[-1])],
    )
    _divides("unet", "groups of normalization", norm_groups, [model_channels])
    return UNetConfig(
        in_channels=in_channels,
        out_channels=size("out.2.weight", 4)[0],
        model_channels=model_channels,
        channel_mult=multiples,
        num_res_blocks=blocks,
        attention_resolutions=resolutions,
        num_head_channels=num_head_channels,
        context_dim=size("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2)[1],
        transformer_depth=depth,
        norm_groups=norm_groups,
        sft_channels=sft_channels,
        sft_hidden=sft_hidden,
    )


def lq_encoder_config(
    tensors: Mapping[str, Tensor], num_heads: int = 4, norm_groups: int = GROUPS
) -> LQEncoderConfig:
    """Sizes of StableSR's LQ encoder; heads and groups are not in the tensors."""
    size = partial(_size, "lq_encoder", tensors)
    model_channels, in_channels, *_ = size("input_blocks.0.0.weight", 4)
    multiples, resolutions, blocks = _levels("lq_encoder", tensors)
    out_channels = size("fea_tran.0.out_layers.3.weight", 4)[0]
    _multiples("lq_encoder", GROUPS, [out_channels])
    attending = [m for level, m in enumerate(multiples) if 2**level in resolutions]
    _divides(
        "lq_encoder", "attention heads", num_heads, [model_channels * m for m in (*attending, multiples[-1])]
    )
    _divides("lq_encoder", "groups of normalization", norm_groups, [model_channels, out_channels])
    return LQEncoderConfig(
        in_channels=in_channels,
        model_channels=model_channels,
        out_channels=out_channels,
        channel_mult=multiples,
        num_res_blocks=blocks,
        attention_resolutions=resolutions,
        num_heads=num_heads,
        norm_groups=norm_groups,
    )


def _levels(network: str, tensors: Mapping[str, Tensor]) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Widths of the levels as multiples of the first convolution's, factors with attention, and residual
    blocks a level of an LDM encoder."""
    widths: list[list[int]] = [[]]
    resolutions: set[int] = set()
    for index in range(1, max(2, _count(network, tensors, "input_blocks."))):
        if f"input_blocks.{index}.0.op.weight" in tensors and widths[-1]:
            widths.append([])
            continue
        widths[-1].append(_size(network, tensors, f"input_blocks.{index}.0.out_layers.3.weight", 4)[0])
        if f"input_blocks.{index}.1.norm.weight" in tensors:
            resolutions.add(2 ** (len(widths) - 1))
    if len(found := {len(level) for level in widths}) > 1:
        raise _strange(
            network, f"its levels have {' or '.join(map(str, sorted(found)))} blocks, expected one number"
        )
    base = _size(network, tensors, "input_blocks.0.0.weight", 4)[0]
    multiples = _multiples(network, base, [level[0] for level in widths if level])
    return multiples, tuple(sorted(resolutions, reverse=True)), len(widths[0])


def autoencoder_config(tensors: Mapping[str, Tensor], norm_groups: int = GROUPS) -> AutoencoderConfig:
    """Sizes of a KL autoencoder with or without CFW; its groups are not in the tensors."""
    size = partial(_size, "autoencoder", tensors)
    ch, in_channels, *_ = size("encoder.conv_in.weight", 4)
    blocks = _count("autoencoder", tensors, "encoder.down.0.block.")
    levels = _count("autoencoder", tensors, "encoder.down.")
    widths = [size(f"encoder.down.{level}.block.0.conv2.weight", 4)[0] for level in range(levels)]
    _affordable("autoencoder", tensors, levels * blocks)
    multiples = _multiples("autoencoder", ch, widths)
    _divides("autoencoder", "groups of normalization", norm_groups, [ch])
    return AutoencoderConfig(
        in_channels=in_channels,
        out_ch=size("decoder.conv_out.weight", 4)[0],
        ch=ch,
        ch_mult=multiples,
        num_res_blocks=blocks,
        z_channels=size("decoder.conv_in.weight", 4)[1],
        embed_dim=size("post_quant_conv.weight", 4)[1],
        cfw=any(key.startswith("decoder.fusion_layer_") for key in tensors),
        norm_groups=norm_groups,
    )


def _size(network: str, tensors: Mapping[str, Tensor], key: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that has to be there, with `rank` sizes above 0."""
    if key not in tensors:
        raise _incomplete(network, key)
    shape = tuple(tensors[key].shape)
    if len(shape) != rank or 0 in shape:
        raise _strange(
            network, f"{PREFIXES[network]}{key} has the shape {list(shape)}, expected {rank} sizes above 0"
        )
    return shape


def _multiples(network: str, first: int, widths: list[int]) -> tuple[int, ...]:
    if first % GROUPS or any(width % first for width in widths):
        raise _strange(
            network,
            f"it has layers of {', '.join(map(str, widths))} channels, expected multiples of {first}"
            + (f", itself a multiple of {GROUPS}" if first % GROUPS else ""),
        )
    return tuple(width // first for width in widths)


def _count(network: str, tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many parts are numbered after the prefix, which have to be 0, 1, 2, … without a gap: what a single
    key claims is not built."""
    named = re.compile(re.escape(prefix) + r"([0-9]+)\.")
    found = {match[1] for key in tensors if (match := named.match(key))}
    if not found:
        raise _incomplete(network, f"{prefix}0")
    if found != {str(number) for number in range(len(found))}:
        raise _strange(
            network, f"the parts {PREFIXES[network]}{prefix}* are not numbered without a gap from 0"
        )
    return len(found)


def _affordable(network: str, tensors: Mapping[str, Tensor], blocks: int) -> None:
    """Raise CheckpointError where there are less than a few tensors for each block that would be built."""
    if 4 * blocks > len(tensors):
        raise _strange(network, f"its keys claim {blocks:,} blocks, but it has {len(tensors):,} tensors")


def _divides(network: str, what: str, number: int, widths: Iterable[int]) -> None:
    """Raise CheckpointError unless all widths are multiples of what the header says."""
    if any(width % number for width in widths):
        raise _strange(
            network, f"{what} of {number} do not divide its widths {', '.join(map(str, sorted({*widths})))}"
        )


def _incomplete(network: str, key: str) -> CheckpointError:
    return CheckpointError(
        f"This checkpoint has no complete {NETWORKS[network]}: {PREFIXES[network]}{key} is missing."
    )


def _strange(network: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"The {NETWORKS[network]} of this checkpoint is damaged or of another architecture: {why}."
    )


_UNUSED_BY_TEXT = ("text_projection", "logit_scale", "attn_mask", "position_ids")
"""What checkpoints keep beside the text tower: CLIP's way to pictures, and buffers of other versions."""


def text_weights(tensors: Mapping[str, Tensor]) -> StateDict:
    """The state dict without prefix of a text tower, less what the tower has no use for."""
    return {key: value for key, value in tensors.items() if not key.endswith(_UNUSED_BY_TEXT)}


def text_config(tensors: Mapping[str, Tensor], num_head_channels: int = 64) -> TextTowerConfig:
    """Sizes of the text tower of a state dict without prefix; the head width is not in the tensors."""
    size = partial(_size, "text", tensors)
    vocab, width = size("model.token_embedding.weight", 2)
    if width % num_head_channels:
        raise _strange("text", f"it is {width} wide, expected a multiple of its heads' {num_head_channels}")
    size("model.transformer.resblocks.0.attn.in_proj_weight", 2)
    length = size("model.positional_embedding", 2)[0]
    if not SHORTEST_TEXT <= length <= LONGEST_TEXT:
        raise _strange("text", f"it reads {length:,} tokens, expected {SHORTEST_TEXT} to {LONGEST_TEXT}")
    layers = _count("text", tensors, "model.transformer.resblocks.")
    _affordable("text", tensors, layers)
    return TextTowerConfig(
        width=width,
        heads=width // num_head_channels,
        layers=layers,
        vocab=vocab,
        context_length=length,
    )
