"""Prompts, and the LQ latent in them, as the samplers need them."""

from __future__ import annotations

from typing import Any

import node_helpers
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...pfstorer_core.checkpoints.header import RestorerHeader
from .adapters import NULL_PROMPT
from .images import finite
from .model import CLEANED_LATENT, LQ_LATENT, NEGATIVE, PICTURES, RestorerModel
from .placement import FRAME, WHOLE, Frame

Conditioning = list[list[Any]]


def restorer_of(model: ModelPatcher, vae: Any) -> RestorerModel:
    """The restorer inside a MODEL, after a look at whether the VAE, where there is one, belongs to it.

    Raises:
        ValueError: the MODEL is not one of ours, or its latents are not the VAE's.
    """
    if not isinstance(model.model, RestorerModel):
        raise ValueError(
            f"This MODEL is a {type(model.model).__name__}, which cannot restore: "
            "connect the MODEL of Load Base Restorer."
        )
    latents = model.model.latent_format
    wanted = (latents.spacial_downscale_ratio, latents.latent_channels)
    found = wanted if vae is None else (vae.downscale_ratio, vae.latent_channels)
    if found != wanted:
        raise ValueError(
            f"This VAE does not belong to the MODEL: factor and channels of its latents are {found}, the "
            f"MODEL's {wanted}. Connect the VAE of the same Load Base Restorer."
        )
    return model.model


def prompts_for(restorer: RestorerModel, *prompts: Conditioning | None) -> list[Conditioning]:
    """Each prompt, or the empty one where there is none.

    Raises:
        ValueError: a prompt that another kind of CLIP made.
    """
    width = restorer.sizes.context_dim
    for prompt in prompts:
        if prompt and not width:
            raise ValueError(
                "This restorer reads no prompts: leave positive and negative of this node unconnected."
            )
        if prompt and prompt[0][0].shape[-1] != width:
            raise ValueError(
                f"A prompt has {prompt[0][0].shape[-1]} channels, this restorer reads {width}: "
                "encode it with the CLIP of Load Base Restorer."
            )
        for tokens, _ in prompt or ():
            finite(tokens, "positive or negative", "prompt")
    return [prompt or [[restorer.null_context, {NULL_PROMPT: True}]] for prompt in prompts]


def check_size(header: RestorerHeader, pixels: Tensor) -> None:
    """Raise ValueError where a restorer of one size gets pictures [B, 3, H, W] of another."""
    shorter, wanted = min(pixels.shape[-2:]), header.image_size
    if header.size_rule == "fixed" and shorter != wanted:
        raise ValueError(
            f"This restorer restores pictures whose shorter side has {wanted} pixels, and this one has "
            f"{shorter}: it would draw a face of its own. Scale the image to that, or take Tiled SR Sampler, "
            "which does, or Crop Face with align FFHQ."
        )


def with_lq(
    prompts: list[Conditioning],
    lq_latent: Tensor,
    frame: Frame = WHOLE,
    first: int = 0,
    total: int | None = None,
    cleaned: Tensor | None = None,
) -> list[Conditioning]:
    """The prompts, positive and negative, with the LQ latent [B, C, h, w] (unscaled) that steers the
    restoration.

    Args:
        cleaned: latent of the cleaned picture, where sampling starts from that.
        frame: what of the pictures was encoded; masks cover the whole of them.
        first: number of its first picture among the `total` that masks may be given for.
    """
    # On the negative too: without it the host would run two passes, one of them without structure.
    values: dict[str, Any] = {LQ_LATENT: lq_latent, FRAME: frame}
    if cleaned is not None:
        values[CLEANED_LATENT] = cleaned
    if total is not None:
        values[PICTURES] = (first, total)
    return [
        node_helpers.conditioning_set_values(prompt, values | {NEGATIVE: bool(number)})
        for number, prompt in enumerate(prompts)
    ]
