"""DegradeImage."""

from __future__ import annotations

import torch
from comfy.model_management import throw_exception_if_processing_interrupted as stop
from comfy_api.latest import io
from torch import Tensor

from ..pfstorer_core.degradation import PRESETS, degrade, draw
from .host.images import from_image, to_image


class DegradeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DegradeImage",
            display_name="Degrade Image",
            category="PFStorer",
            description="Makes a bad picture of a good one, to try a workflow or to compare settings.",
            search_aliases=[
                "degradation",
                "downsample",
                "jpeg",
                "noise",
                "blur",
                "low quality",
                "pfstorer",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The good picture."),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="moderate",
                    tooltip="light, moderate, heavy, severe: by strength. stablesr and face: what StableSR's "
                    "models were trained on; codeformer and diffbir: what DiffBIR's were. All are made "
                    "for faces of about 512 pixels.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Same seed, same damage; each picture of a batch gets its own.",
                ),
                io.Boolean.Input(
                    "keep_size",
                    default=True,
                    tooltip="On: enlarged back to the size of the picture. Off: as small as it became, which "
                    "may be another size for every picture of a batch: give a list then.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The bad picture; smaller where keep_size is off.")],
        )

    @classmethod
    def execute(cls, image: Tensor, preset: str, seed: int, keep_size: bool = True) -> io.NodeOutput:
        pixels = from_image(image).clamp(0, 1)  # bicubic resizing overshoots
        drawn = draw(preset, len(pixels), torch.Generator().manual_seed(seed))
        return io.NodeOutput(to_image(degrade(pixels, drawn, keep_size=keep_size, on_step=stop)))
