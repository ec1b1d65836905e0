"""StableSR's LQ encoder in a checkpoint."""

from __future__ import annotations

from ...models import LQEncoder, LQEncoderConfig
from ..header import RestorerHeader
from .base import GROUPS, Part, Tensors
from .encoder import FIRST, attending, encoder_sizes


def sizes(tensors: Tensors, header: RestorerHeader) -> LQEncoderConfig:
    encoder = encoder_sizes(tensors, header.norm_groups)
    out_channels = tensors.size("fea_tran.0.out_layers.3.weight", 4)[0]
    tensors.multiples(GROUPS, [out_channels])
    tensors.check_divisor("attention heads", header.lq_num_heads, attending(encoder))
    tensors.check_divisor("groups of normalization", header.norm_groups, [out_channels])
    return LQEncoderConfig(**encoder, out_channels=out_channels, num_heads=header.lq_num_heads)


LQ_ENCODER = Part("LQ encoder", "structcond_stage_model.", FIRST, sizes, LQEncoder)
