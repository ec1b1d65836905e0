"""Small restorers that are made from nothing: their sizes, and how they are trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...models import AutoencoderConfig, LQEncoderConfig, TextTowerConfig, UNetConfig
from ...training.loop import LoopSettings
from ..first_stage.objective import AutoencoderTraining

TINY = UNetConfig(
    in_channels=8,
    out_channels=8,
    model_channels=64,
    channel_mult=(1, 2, 2),
    attention_resolutions=(4, 2),
    num_head_channels=32,
    context_dim=64,
    sft_channels=64,
    sft_hidden=20,
    norm_groups=8,
    lq_encoder=LQEncoderConfig(
        in_channels=8,
        model_channels=64,
        out_channels=64,
        channel_mult=(1, 1, 1),
        num_res_blocks=1,
        num_heads=2,
        norm_groups=8,
    ),
)
"""The U-Net of the smallest restorer, which sees pictures of 128 pixels."""

TINY_TEXT = TextTowerConfig(width=TINY.context_dim, heads=1, layers=3)
"""Its text tower: narrow, because CLIP's table has 49,408 rows. The last block is Stable Diffusion 2's,
which nothing reads."""

TINY_LOOP = LoopSettings(steps=3000, lr=8e-4)


@dataclass(frozen=True)
class SmallRestorer:
    """A restorer that is made from nothing.

    Attributes:
        unet: its sizes; the text tower is `TINY_TEXT`.
        size: side in pixels of the pictures that it is trained on. autoencoder_crop: of its autoencoder's.
        autoencoder: sizes and training of the autoencoder.
        loop: of the U-Net's training.
    """

    unet: UNetConfig
    size: int
    loop: LoopSettings
    autoencoder_crop: int
    autoencoder: AutoencoderTraining = field(default_factory=AutoencoderTraining)


F8_Z16 = SmallRestorer(
    replace(
        TINY,
        in_channels=16,
        out_channels=16,
        channel_mult=(1, 2, 3),
        num_head_channels=64,
        num_res_blocks=1,
        lq_encoder=LQEncoderConfig(
            in_channels=16,
            model_channels=64,
            out_channels=64,
            channel_mult=(1, 1, 2),
            num_res_blocks=1,
            num_heads=2,
            norm_groups=8,
        ),
    ),
    size=256,
    loop=LoopSettings(
        steps=2500,
        lr=1.2e-3,
        batch=256,
        decay=False,
        weight_decay=0.01,
        ema=0.999,
        finish=1500,
        muon=0.02,
    ),
    autoencoder_crop=192,
    autoencoder=AutoencoderTraining(
        AutoencoderConfig(
            ch=32, ch_mult=(1, 2, 4, 4), num_res_blocks=1, z_channels=16, embed_dim=16, norm_groups=8
        ),
        loop=LoopSettings(steps=1500, lr=4e-4, batch=48, ema=0.995),
    ),
)
"""Latents of 16 channels, an eighth of a side: 13.2 M parameters, which see pictures of 256 pixels."""

SMALL_RESTORERS = {"tiny": SmallRestorer(TINY, 128, TINY_LOOP, 64), "f8_z16": F8_Z16}
"""By name; `f8_z16` is the embedded one."""
