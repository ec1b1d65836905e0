"""The autoencoder in a checkpoint: KL or VQ, with or without CFW."""

from __future__ import annotations

from ...models import Autoencoder, AutoencoderConfig
from ..errors import CheckpointError
from ..header import RestorerHeader
from .base import Part, Tensors

FIRST = "encoder.conv_in.weight"
CODEBOOK = "quantize.embedding.weight"


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


AUTOENCODER = Part(
    "autoencoder", "first_stage_model.", FIRST, sizes, Autoencoder, addition=("CFW layers", ".fusion_layer_")
)
