"""Sizes of the embedded tiny restorer."""

from __future__ import annotations

from ...models import LQEncoderConfig, TextTowerConfig, UNetConfig

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
"""Its U-Net."""

TINY_TEXT = TextTowerConfig(width=TINY.context_dim, heads=1, layers=3)
"""Its text tower: narrow, because CLIP's table has 49,408 rows. The last block is Stable Diffusion 2's,
which nothing reads."""
