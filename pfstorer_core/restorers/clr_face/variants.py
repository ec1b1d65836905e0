"""Published latent diffusion models without a text: their tensors tell most of them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ...checkpoints.header import RestorerHeader
from ...checkpoints.parts import UNET
from ...checkpoints.words import plain
from ..registry import UnknownVariant

CLR_FACE = RestorerHeader(
    architecture="clr_face",
    scale_factor=1.0,
    num_head_channels=32,
    beta_start=0.0015,
    beta_end=0.0155,
    condition="concat",
    start="cleaned",
    start_at=0.5,
    size_rule="fixed",
    aligned="FFHQ",
)
"""A prior that starts from the cleaned picture, half way; its betas are ReF-LDM's."""
GENERATOR = replace(CLR_FACE, condition="none", image_size=256, beta_end=0.0195)

REFLDM = "refldm"
"""The one that learned to look at photos as it was published: all encoded as one wide picture."""
VARIANTS = {
    REFLDM: replace(CLR_FACE, variant=REFLDM, start="noise", start_at=1.0),
    "ffhq256": replace(GENERATOR, variant="ffhq256"),
    "celeba256": replace(GENERATOR, variant="celeba256"),
    "bsr_sr": replace(
        CLR_FACE,
        variant="bsr_sr",
        condition="pixels",
        start="noise",
        start_at=1.0,
        image_size=256,
        size_rule="tiled",
        aligned="",
    ),
}
"""Headers by the names that their authors give them."""

UNSEEN = (
    "It has no condition: it does not see the bad picture and so cannot restore it. It only draws anew, half "
    "way into the noise, what it starts from. `train-prior --from` it gives it a condition."
)
LEARNED = {
    "ffhq256": "learned FFHQ, whose pictures are for non-commercial use (CC BY-NC-SA 4.0).",
    "celeba256": "learned CelebA-HQ, whose pictures are for non-commercial research only.",
}
NOTES = {
    "refldm": "ReF-LDM's weights are for non-commercial research only.",
    "ffhq256": f"{UNSEEN} It {LEARNED['ffhq256']}",
    "celeba256": f"{UNSEEN} It {LEARNED['celeba256']}",
    "from_refldm": "It began as ReF-LDM's weights, which are for non-commercial research only.",
    "from_ffhq256": f"It began as a network that {LEARNED['ffhq256']}",
    "from_celeba256": f"It began as a network that {LEARNED['celeba256']}",
    "bsr_sr": "It enlarges pictures of all kinds by 4; for faces take another one. Its authors give its "
    "weights no licence of their own: ask before commercial use.",
}
"""What has to be known of each."""

LAST = f"{UNET.prefix}out.2.weight"
CHANNELS: dict[tuple[int, ...], str] = {(16, 8): "refldm", (3, 3): "ffhq256", (6, 3): "bsr_sr"}
"""Into and out of the U-Net. That of CelebA-HQ is FFHQ's once more, and only its name tells."""


def published(name: str, tensors: Mapping[str, Tensor], variant: str | None) -> RestorerHeader:
    """The header of a published file; `variant` overrides what its tensors say.

    Raises:
        UnknownVariant: neither tells what it is.
    """
    if variant is None:
        ends = [tensors[key].shape for key in (UNET.key, LAST) if key in tensors]
        channels = [end[axis] for axis, end in zip((1, 0), ends, strict=False) if len(end) == 4]
        variant = CHANNELS.get(tuple(channels))
        if variant == "ffhq256" and "celeba" in name.lower():
            variant = "celeba256"
    if variant is None:
        raise UnknownVariant(
            f"{plain(name)} is a latent diffusion model that is not known here: choose the variant that it "
            f"is like ({', '.join(VARIANTS)})."
        )
    return VARIANTS[variant]
