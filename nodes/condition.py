"""RestorationConditioning."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from .host.cleaning import cleaner_of
from .host.conditioning import Conditioning, check_size, prompts_for, restorer_of, with_lq
from .host.images import from_image
from .host.placement import frame_of
from .host.starts import start_of


class RestorationConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RestorationConditioning",
            display_name="Restoration Conditioning",
            category="PFStorer",
            description="Prepares a bad picture for any native sampler, at denoise 1 (CLR-Face priors: 0.5).",
            search_aliases=[
                "stablesr",
                "diffbir",
                "ksampler",
                "face restore",
                "blurry",
                "img2img",
                "pfstorer",
            ],
            inputs=[
                io.Model.Input("model", tooltip="From Load Base Restorer."),
                io.Vae.Input("vae", tooltip="From Load Base Restorer."),
                io.Image.Input(
                    "image",
                    tooltip="The bad picture, already enlarged to the size of the result. Sides that are no "
                    "multiple of the VAE's factor (8) are cropped.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="A prompt of your own. Unconnected: empty.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="Only matters at a cfg above 1."),
                io.UpscaleModel.Input(
                    "cleaner",
                    optional=True,
                    tooltip="For DiffBIR: cleans the picture first (Load Upscale Model); a CLR-Face prior "
                    "starts from the result. Unconnected: the one in the checkpoint, if there is one.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="The prompt with the bad picture in it. Connect both this and negative to the "
                    "sampler.",
                ),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="The same for negative: it holds the bad picture, too, at a cfg of 1 as well.",
                ),
                io.Latent.Output(tooltip="Where the sampler starts; its size is the result's."),
            ],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, vae: Any, image: Tensor,
        positive: Conditioning | None = None, negative: Conditioning | None = None, cleaner: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        restorer = restorer_of(model, vae)
        prompts = prompts_for(restorer, positive, negative)
        pixels = from_image(image)
        if min(pixels.shape[-2:]) < vae.downscale_ratio:
            raise ValueError(
                f"The image is {pixels.shape[-1]} x {pixels.shape[-2]}; each side needs at least "
                f"{vae.downscale_ratio} pixels. Enlarge it to the size of the result first."
            )
        check_size(restorer.header, pixels)
        given = pixels.shape[-2:]
        pixels = vae.vae_encode_crop_pixels(pixels.movedim(1, -1)).movedim(-1, 1)
        corner = [(whole - part) // 2 for whole, part in zip(given, pixels.shape[-2:], strict=True)]
        frame = frame_of(given, pixels.shape[-2:], corner)
        stop = mm.throw_exception_if_processing_interrupted
        start = start_of(restorer.header, vae, cleaner_of(model, cleaner), pixels, on_tile=stop)
        conditions = with_lq(prompts, start.lq, frame, cleaned=start.cleaned)
        return io.NodeOutput(*conditions, {"samples": start.latent})
