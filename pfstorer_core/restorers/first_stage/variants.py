"""Autoencoders that are made from nothing, by name: their sizes, and how they are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...models import AutoencoderConfig
from ...training.settings import LoopSettings
from .adversarial import Adversary
from .objective import AutoencoderTraining


@dataclass(frozen=True)
class FirstStage:
    """An autoencoder's training, and the side of the crops that it sees, in pixels."""

    training: AutoencoderTraining
    crop: int


def _published(config: AutoencoderConfig, loop: LoopSettings, adversary: Adversary) -> AutoencoderTraining:
    """Mean absolute error and LPIPS, which the caller brings; the codebook as it was drawn."""
    return AutoencoderTraining(
        config,
        multiscale=False,
        adversary=adversary,
        normalize=False,
        loop=replace(loop, warmup=0, ema=0.0, clip=0.0),
    )


VQ_F4 = FirstStage(
    _published(
        AutoencoderConfig(ch_mult=(1, 2, 4), z_channels=3, embed_dim=3, codebook=8192, double_z=False),
        LoopSettings(steps=1_000_000, lr=8 * 4.5e-6, batch=8, betas=(0.5, 0.9), decay=False, bf16=False),
        Adversary(),
    ),
    crop=256,
)
"""latent-diffusion's `vq-f4`; how long it was trained, and by batches of how many, is not published."""

REF_LDM = FirstStage(
    _published(
        AutoencoderConfig(ch_mult=(1, 1, 2, 4), z_channels=8, embed_dim=8, codebook=8192, double_z=False),
        LoopSettings(steps=200_000, lr=1e-4, batch=32, betas=(0.5, 0.9), bf16=False),
        Adversary(start=30_001, weight=0.8),
    ),
    crop=512,
)
"""ReF-LDM's `vqgan`, for faces."""

TINY_VQ = AutoencoderTraining(
    AutoencoderConfig(
        ch=32,
        ch_mult=(1, 2, 4),
        num_res_blocks=1,
        z_channels=3,
        embed_dim=3,
        codebook=8192,
        double_z=False,
        mid_attention=False,
        norm_groups=8,
    ),
    quantize_from=500,
    renew_entries=True,
    loop=LoopSettings(steps=2000, lr=2e-4, batch=8, ema=0.99),
)
"""The small ones of this project: 2.6 M parameters and no attention, so that they may learn from crops."""

FIRST_STAGES = {
    "vq_f4": FirstStage(TINY_VQ, 96),
    "vq_f8": FirstStage(
        replace(TINY_VQ, config=replace(TINY_VQ.config, ch_mult=(1, 2, 4, 4), z_channels=8, embed_dim=8)), 128
    ),
    "vq-f4": VQ_F4,
    "ref-ldm": REF_LDM,
}
