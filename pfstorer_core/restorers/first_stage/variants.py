"""Autoencoders that are made from nothing, by name: their sizes, and how they are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...models import AutoencoderConfig
from ...models.discriminator import DiscriminatorConfig
from ...training.settings import LoopSettings
from .adversarial import Adversary
from .objective import AutoencoderTraining

TINY_ADVERSARY = Adversary(weight=0.1, discriminator=DiscriminatorConfig(ndf=16))
"""Against small autoencoders, where one is asked for: much of it makes them draw what was not there."""


@dataclass(frozen=True)
class FirstStageChanges:
    """What is to be different in an autoencoder's training; None for what is as it was.

    Attributes:
        codebook: its entries; 0 for a KL autoencoder.
        z_channels: of the latent. ch_mult: as many levels as it has, each half as large as the one before.
        disc_start, disc_weight: see `Adversary`.
    """

    codebook: int | None = None
    z_channels: int | None = None
    ch_mult: tuple[int, ...] | None = None
    disc_start: int | None = None
    disc_weight: float | None = None

    def sizes(self, config: AutoencoderConfig) -> AutoencoderConfig:
        """Raises ValueError where they are not above 0."""
        codebook = config.codebook if self.codebook is None else self.codebook
        z_channels, ch_mult = self.z_channels or config.z_channels, self.ch_mult or config.ch_mult
        if min(codebook + 1, z_channels, *ch_mult) < 1:
            raise ValueError("An autoencoder's sizes must be above 0, and its codebook's 0 or above.")
        return replace(
            config,
            codebook=codebook,
            double_z=not codebook,
            z_channels=z_channels,
            embed_dim=z_channels,
            ch_mult=ch_mult,
        )


@dataclass(frozen=True)
class FirstStage:
    """An autoencoder's training, and the side of the crops that it sees, in pixels."""

    training: AutoencoderTraining
    crop: int

    def changed(self, by: FirstStageChanges, loop: LoopSettings) -> FirstStage:
        """With other sizes, another adversary and another loop.

        Raises:
            ValueError: the sizes do not go together.
        """
        made = replace(self.training, config=by.sizes(self.training.config), loop=loop)
        if made.low_pass and made.config.codebook:  # one of this project's own
            made = replace(
                made, quantize_from=min(TINY_VQ.quantize_from, loop.steps // 4), renew_entries=True
            )
        if by.disc_start is not None or by.disc_weight is not None:
            adversary = made.adversary or TINY_ADVERSARY
            start = adversary.start if by.disc_start is None else by.disc_start
            weight = adversary.weight if by.disc_weight is None else by.disc_weight
            made = replace(made, adversary=replace(adversary, start=start, weight=weight))
        return replace(self, training=made)


def _published(config: AutoencoderConfig, loop: LoopSettings, adversary: Adversary) -> AutoencoderTraining:
    """Mean absolute error and LPIPS, which the caller brings; the codebook as it was drawn."""
    return AutoencoderTraining(
        config,
        multiscale=False,
        adversary=adversary,
        low_pass=False,
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
    "tiny_vq_f4": FirstStage(TINY_VQ, 96),
    "tiny_vq_f8": FirstStage(
        replace(TINY_VQ, config=replace(TINY_VQ.config, ch_mult=(1, 2, 4, 4), z_channels=8, embed_dim=8)), 128
    ),
    "vq_f4": VQ_F4,
    "ref_ldm": REF_LDM,
}
