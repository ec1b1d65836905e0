"""RestorationConditioning, and the conditioning that our samplers share."""

from __future__ import annotations

from typing import Any

import node_helpers
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from .host import LQ_LATENT, RestorerModel

Conditioning = list[list[Any]]


def restorer_of(model: ModelPatcher) -> RestorerModel:
    """The restorer inside a MODEL.

    Raises:
        ValueError: the MODEL is not one of ours.
    """
    if not isinstance(model.model, RestorerModel):
        raise ValueError(
            f"This MODEL is a {type(model.model).__name__}, which cannot restore: "
            "connect the MODEL of LoadBaseRestorer."
        )
    return model.model


def condition(model: ModelPatcher, lq_latent: Tensor, *prompts: Conditioning | None) -> list[Conditioning]:
    """Each prompt, or the empty one, with the LQ latent [B, C, h, w] (unscaled) that steers."""
    null: Conditioning = [[restorer_of(model).null_context, {}]]
    # On the negative too: without it the host would run two passes, one of them without structure.
    return [
        node_helpers.conditioning_set_values(prompt or null, {LQ_LATENT: lq_latent}) for prompt in prompts
    ]


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
        lq_latent = vae.encode(image[..., :3])
        return io.NodeOutput(*condition(model, lq_latent, positive, negative), {"samples": lq_latent})
