"""The U-Net in a checkpoint."""

from __future__ import annotations

from ...models import UNet, UNetConfig
from ..header import RestorerHeader
from .base import Part, Tensors
from .control import CONTROL
from .encoder import FIRST, transformer_encoder_sizes
from .lq_encoder import LQ_ENCODER

SFT = "input_blocks.1.0.spade.mlp_shared.0.weight"
"""Tells the width of the SFT layers, where there are any."""


def sizes(tensors: Tensors, header: RestorerHeader) -> UNetConfig:
    encoder = transformer_encoder_sizes(tensors, header)
    sft_hidden, sft_channels, *_ = tensors.size(SFT, 4) if SFT in tensors else (UNetConfig.sft_hidden, 0)
    lq_encoder, control = tensors.child("lq_encoder."), tensors.child("control_model.")
    return UNetConfig(
        **encoder,
        out_channels=tensors.size("out.2.weight", 4)[0],
        sft_channels=sft_channels,
        sft_hidden=sft_hidden,
        lq_encoder=LQ_ENCODER.config_from(lq_encoder, header) if lq_encoder else None,
        control=CONTROL.config_from(control, header) if control else None,
    )


UNET = Part("U-Net", "model.diffusion_model.", FIRST, sizes, UNet, addition=("SFT layers", ".spade."))
