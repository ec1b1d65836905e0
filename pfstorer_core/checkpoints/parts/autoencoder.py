"""The autoencoder in a checkpoint: KL or VQ, with or without CFW."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ...models import Autoencoder, AutoencoderConfig
from ..errors import CheckpointError, StateDict
from ..header import RestorerHeader
from .base import Part, Tensors

FIRST = "encoder.conv_in.weight"
CODEBOOK = "quantize.embedding.weight"
ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
"""Of the attention in its middle: what diffusers calls its layers, and checkpoints do."""
BY_DIFFUSERS = re.compile(r"(\.mid\.attn_1\.)(to_[qkv]|to_out\.0)\.")


def sizes(tensors: Tensors, header: RestorerHeader) -> AutoencoderConfig:
    ch, in_channels, *_ = tensors.size(FIRST, 4)
    blocks = tensors.count("encoder.down.0.block.")
    levels = tensors.count("encoder.down.")
    widths = [tensors.size(f"encoder.down.{level}.block.0.conv2.weight", 4)[0] for level in range(levels)]
    tensors.check_affordable(levels * blocks)
    multiples = tensors.multiples(ch, widths)
    tensors.check_divisor("groups of normalization", header.norm_groups, [ch])
    z_channels = tensors.size("decoder.conv_in.weight", 4)[1]
    try:
        return AutoencoderConfig(
            in_channels=in_channels,
            out_ch=tensors.size("decoder.conv_out.weight", 4)[0],
            ch=ch,
            ch_mult=multiples,
            num_res_blocks=blocks,
            z_channels=z_channels,
            embed_dim=tensors.size("post_quant_conv.weight", 4)[1],
            cfw=tensors.any("decoder.fusion_layer_"),
            codebook=tensors.size(CODEBOOK, 2)[0] if CODEBOOK in tensors else 0,
            double_z=tensors.size("encoder.conv_out.weight", 4)[0] != z_channels,
            mid_attention=tensors.any("decoder.mid.attn_1."),
            norm_groups=header.norm_groups,
        )
    except CheckpointError:
        raise
    except ValueError as error:  # of the configuration: sizes that do not go together
        raise tensors.strange(str(error).rstrip(".")) from error


def with_own_names(tensors: Mapping[str, Tensor]) -> StateDict:
    """The tensors of a file, with an attention under its own names: diffusers' script that brings trained
    weights back into a checkpoint leaves its names there, and matrices in place of 1 x 1 convolutions."""
    found = StateDict()
    for key, value in tensors.items():
        own = BY_DIFFUSERS.sub(lambda name: f"{name[1]}{ATTENTION[name[2]]}.", key)
        found[own] = value[:, :, None, None] if own != key and value.ndim == 2 else value
    return found


AUTOENCODER = Part(
    "autoencoder", "first_stage_model.", FIRST, sizes, Autoencoder, addition=("CFW layers", ".fusion_layer_")
)
