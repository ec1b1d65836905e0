"""Training of a conditional prior: p(z | E(y)) by denoising, where a share of the conditions is dropped."""

from __future__ import annotations

from dataclasses import replace

from ...models import UNetConfig
from ...training.loop import LoopSettings
from ..stablesr.train import BaseTraining

REF_LDM = UNetConfig(
    model_channels=160,
    channel_mult=(1, 2, 2, 4),
    attention_resolutions=(8, 4, 2),
    num_head_channels=32,
    context_dim=0,
    sft_channels=0,
)
PRIORS = {
    "tiny": replace(
        REF_LDM, model_channels=64, channel_mult=(1, 2, 2), attention_resolutions=(4,), norm_groups=8
    ),
    "ref_ldm": REF_LDM,
    "ffhq256": replace(REF_LDM, model_channels=224, channel_mult=(1, 2, 3, 4)),
}
"""Sizes of U-Nets by name; channels in and out are those of the first stage."""

PUBLISHED = LoopSettings(
    steps=200_000,
    lr=5 * 5e-5,
    batch=5,
    warmup=0,
    decay=False,
    betas=(0.9, 0.999),
    weight_decay=0.01,
    ema=0.9999,
    clip=0.0,
)
"""ReF-LDM's: latent diffusion counts rates by sample, 5e-5 for each. How many steps is not published."""
TINY_LOOP = LoopSettings(
    steps=3000, lr=1e-3, batch=64, decay=False, weight_decay=0.01, ema=0.999, finish=1500, muon=0.02
)
WIDE = 128
"""Channels of a U-Net from which on it is trained as ReF-LDM's was."""


def prior_training(
    config: UNetConfig,
    null_lq: float | None = None,
    p_hq: float = 0.0,
    shift: float = 1.0,
    checkpointing: bool = False,
) -> BaseTraining:
    """Settings of `train_base` for a prior of this size.

    Args:
        null_lq: share of samples without a condition, by which it can be guided; None for ReF-LDM's, 0.1.
    Raises:
        ValueError: see `BaseTraining`.
    """
    loop = PUBLISHED if config.model_channels >= WIDE else TINY_LOOP
    return BaseTraining("prior", null_lq, p_hq=p_hq, shift=shift, checkpointing=checkpointing, loop=loop)
