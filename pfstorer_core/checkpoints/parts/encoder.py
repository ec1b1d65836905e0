"""Sizes that U-Net, control network and LQ encoder tell alike."""

from __future__ import annotations

from typing import Any

from ..header import RestorerHeader
from .base import Tensors

FIRST = "input_blocks.0.0.weight"
"""The first convolution of such a network."""


def encoder_sizes(tensors: Tensors, norm_groups: int) -> dict[str, Any]:
    """The fields of `EncoderConfig`."""
    model_channels, in_channels, *_ = tensors.size(FIRST, 4)
    multiples, resolutions, blocks = _levels(tensors)
    tensors.check_divisor("groups of normalization", norm_groups, [model_channels])
    return {
        "in_channels": in_channels,
        "model_channels": model_channels,
        "channel_mult": multiples,
        "num_res_blocks": blocks,
        "attention_resolutions": resolutions,
        "norm_groups": norm_groups,
    }


def transformer_encoder_sizes(tensors: Tensors, header: RestorerHeader) -> dict[str, Any]:
    """The fields of `TransformerEncoderConfig`; heads and groups are the header's."""
    sizes = encoder_sizes(tensors, header.norm_groups)
    depth, context_dim = 1, 0
    # The middle block always attends.
    if "middle_block.1.qkv.weight" not in tensors:
        depth = tensors.count("middle_block.1.transformer_blocks.")
        context_dim = tensors.size("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2)[1]
    tensors.check_affordable(depth * sizes["num_res_blocks"] * (1 + 2 * len(sizes["attention_resolutions"])))
    tensors.check_divisor("attention heads", header.num_head_channels, attending(sizes))
    heads = header.num_head_channels
    return {**sizes, "num_head_channels": heads, "context_dim": context_dim, "transformer_depth": depth}


def attending(sizes: dict[str, Any]) -> list[int]:
    """Widths that attend: those of some levels, and of the middle."""
    multiples = sizes["channel_mult"]
    levels = [m for level, m in enumerate(multiples) if 2**level in sizes["attention_resolutions"]]
    return [sizes["model_channels"] * m for m in (*levels, multiples[-1])]


def _levels(tensors: Tensors) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Widths of the levels as multiples of the first convolution's, factors with attention, and residual
    blocks a level."""
    widths: list[list[int]] = [[]]
    resolutions: set[int] = set()
    for index in range(1, max(2, tensors.count("input_blocks."))):
        if f"input_blocks.{index}.0.op.weight" in tensors and widths[-1]:
            widths.append([])
            continue
        widths[-1].append(tensors.size(f"input_blocks.{index}.0.out_layers.3.weight", 4)[0])
        if f"input_blocks.{index}.1.norm.weight" in tensors:
            resolutions.add(2 ** (len(widths) - 1))
    if len(found := {len(level) for level in widths}) > 1:
        raise tensors.strange(
            f"its levels have {' or '.join(map(str, sorted(found)))} blocks, expected one number"
        )
    multiples = tensors.multiples(tensors.size(FIRST, 4)[0], [level[0] for level in widths if level])
    return multiples, tuple(sorted(resolutions, reverse=True)), len(widths[0])
