"""RestorationConditioning, and the conditioning that our samplers share."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
import node_helpers
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from .host.adapters import NULL_PROMPT
from .host.images import finite, from_image
from .host.model import LQ_LATENT, PICTURES, RestorerModel
from .host.pixels import encode

Conditioning = list[list[Any]]


def restorer_of(model: ModelPatcher, vae: Any) -> RestorerModel:
    """The restorer inside a MODEL, after a look at whether the VAE belongs to it.

    Raises:
        ValueError: the MODEL is not one of ours, or its latents are not the VAE's.
    """
    if not isinstance(model.model, RestorerModel):
        raise ValueError(
            f"This MODEL is a {type(model.model).__name__}, which cannot restore: "
            "connect the MODEL of LoadBaseRestorer."
        )
    latents = model.model.latent_format
    wanted = (latents.spacial_downscale_ratio, latents.latent_channels)
    found = (vae.downscale_ratio, vae.latent_channels)
    if found != wanted:
        raise ValueError(
            f"This VAE does not belong to the MODEL: factor and channels of its latents are {found}, the "
            f"MODEL's {wanted}. Connect the VAE of the same LoadBaseRestorer."
        )
    return model.model


def prompts_for(restorer: RestorerModel, *prompts: Conditioning | None) -> list[Conditioning]:
    """Each prompt, or the empty one where there is none.

    Raises:
        ValueError: a prompt that another kind of CLIP made.
    """
    width = restorer.sizes.context_dim
    for prompt in prompts:
        if prompt and prompt[0][0].shape[-1] != width:
            raise ValueError(
                f"A prompt has {prompt[0][0].shape[-1]} channels, this restorer reads {width}: "
                "encode it with the CLIP of LoadBaseRestorer."
            )
        for tokens, _ in prompt or ():
            finite(tokens, "positive or negative", "prompt")
    return [prompt or [[restorer.null_context, {NULL_PROMPT: True}]] for prompt in prompts]


def with_lq(
    prompts: list[Conditioning], lq_latent: Tensor, first: int = 0, total: int | None = None
) -> list[Conditioning]:
    """The prompts with the LQ latent [B, C, h, w] (unscaled) that steers the restoration.

    Args:
        first: number of its first picture among the `total` that masks may be given for.
    """
    # On the negative too: without it the host would run two passes, one of them without structure.
    values: dict[str, Any] = {LQ_LATENT: lq_latent}
    if total is not None:
        values[PICTURES] = (first, total)
    return [node_helpers.conditioning_set_values(prompt, values) for prompt in prompts]


class RestorationConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RestorationConditioning",
            display_name="Restoration Conditioning",
            category="PFStorer",
            description="Prepares a bad picture for any native sampler, at denoise 1.",
            inputs=[
                io.Model.Input("model", tooltip="Of LoadBaseRestorer."),
                io.Vae.Input("vae", tooltip="Of LoadBaseRestorer."),
                io.Image.Input(
                    "image", tooltip="The bad picture, already enlarged to the size of the result."
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="A prompt of your own. Unconnected: empty.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="Only matters at a cfg above 1."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(tooltip="Where the sampler starts; its size is the result's."),
            ],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, vae: Any, image: Tensor,
        positive: Conditioning | None = None, negative: Conditioning | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        prompts = prompts_for(restorer_of(model, vae), positive, negative)
        pixels = from_image(image)
        if min(pixels.shape[-2:]) < vae.downscale_ratio:
            raise ValueError(
                f"The image is {pixels.shape[-1]} x {pixels.shape[-2]}; each side needs at least "
                f"{vae.downscale_ratio} pixels. Enlarge it to the size of the result first."
            )
        pixels = vae.vae_encode_crop_pixels(pixels.movedim(1, -1)).movedim(-1, 1)
        lq_latent = encode(vae, pixels, mm.throw_exception_if_processing_interrupted)
        return io.NodeOutput(*with_lq(prompts, lq_latent), {"samples": lq_latent})
