"""RestorationColorFix."""

from __future__ import annotations

from comfy.model_management import throw_exception_if_processing_interrupted as stop
from comfy_api.latest import io
from torch import Tensor

from ..pfstorer_core.imaging.color import COLOR_FIXES, color_fix
from .host.images import from_image, to_image


class RestorationColorFix(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RestorationColorFix",
            display_name="Restoration Color Fix",
            category="PFStorer",
            description="Gives a restored picture the colours of another one, usually of its bad original.",
            search_aliases=[
                "color match",
                "color transfer",
                "color correction",
                "wavelet",
                "adain",
                "pfstorer",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The picture whose colours are off."),
                io.Image.Input("reference", tooltip="The picture with the right colours, of any size."),
                io.Combo.Input(
                    "method",
                    options=list(COLOR_FIXES),
                    tooltip="wavelet: takes the reference's low frequencies, good for the same scene. "
                    "adain: takes the mean and spread of each channel. A grey reference makes it grey.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The picture in the reference's colours; its size stays.")],
        )

    @classmethod
    def execute(cls, image: Tensor, reference: Tensor, method: str) -> io.NodeOutput:
        pictures, references = from_image(image), from_image(reference, "reference")
        if len(references) not in (1, len(pictures)):
            raise ValueError(
                f"{len(references)} pictures in reference do not fit {len(pictures)} in image: give one "
                "reference for all, or one for each."
            )
        return io.NodeOutput(to_image(color_fix(pictures, references, method, stop)))
