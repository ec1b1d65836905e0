"""Which parameters of a restorer's U-Net each of the two pivots may change."""

from __future__ import annotations

import re

from ...checkpoints.parts import CONTROL
from ...models import UNet

FIRST_150 = re.compile(
    r"time_embed\..*|input_blocks\.[0-4]\..*"
    r"|input_blocks\.5\.(?!1\.transformer_blocks\.0\.norm3\.|1\.proj_out\.).*"
)
"""Of the control network: the first 150 of its parameters in the order of DiffBIR's modules, which are all
that the published recipe trains. It takes them by number, for the memory of small GPUs: 46,301,440 of
363,153,280 values, and no zero convolution among them."""
LQ_ENCODER, SFT = "lq_encoder.", ".spade."
"""What StableSR's U-Net has besides Stable Diffusion's parameters."""


def generator_names(unet: UNet) -> list[str]:
    """Of Stable Diffusion's own parameters, which are G in the paper: without what reads the condition."""
    return [
        name
        for name, _ in unet.named_parameters()
        if not name.startswith((CONTROL.prefix, LQ_ENCODER)) and SFT not in name
    ]


def guide_names(unet: UNet, trainable: str) -> list[str]:
    """Of the control network, which is E in the paper: all parameters, or with "first150" some of them."""
    found = [name for name, _ in unet.named_parameters() if name.startswith(CONTROL.prefix)]
    if trainable != "first150":
        return found
    return [name for name in found if FIRST_150.fullmatch(name[len(CONTROL.prefix) :])]
