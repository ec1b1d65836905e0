"""RestorationGuidance."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..pfstorer_core.diffusion.restoration_guidance import LOSSES, RULES, SPACES, GuidanceSettings
from .host.conditioning import restorer_of
from .host.guidance import GradientDecoder, Guide, window, with_guidance
from .host.inputs import percent


class RestorationGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RestorationGuidance",
            display_name="Restoration Guidance",
            category="PFStorer",
            description="Keeps a restoration close to its bad picture: less invention, less sharpness.",
            search_aliases=["diffbir", "guidance", "fidelity", "faithful", "hallucination",
                            "latent image guidance", "pfstorer"],
            inputs=[
                io.Model.Input("model", tooltip="From Load Base Restorer, also after Apply Personalization."),
                io.Float.Input("scale", default=0.5, min=0.0, max=10000.0, step=0.05,
                               tooltip="Strength. 0 is the MODEL as it is, bit for bit; too much overshoots. "
                               "Small pictures need less, rgb and rule v1 more."),
                io.Combo.Input("space", options=list(SPACES), default="latent",
                               tooltip="Where predicted and bad picture are compared. latent: fast. rgb: "
                               "through the VAE, which decodes in every step and costs time and memory."),
                io.Vae.Input("vae", optional=True, tooltip="From Load Base Restorer; needed for rgb alone."),
                io.Combo.Input("loss", options=list(LOSSES), default="mse", optional=True, advanced=True,
                               tooltip="w_mse, for rgb: flat areas count more than edges."),
                io.Combo.Input("rule", options=list(RULES), default="v2", optional=True, advanced=True,
                               tooltip="Which of DiffBIR's: v2's, or v1's latent image guidance."),
                io.Int.Input("repeats", default=1, min=1, max=20, optional=True, advanced=True,
                             tooltip="Gradient steps in each step of the sampler."),
                percent("start_percent", 0.0, "begins"),
                percent("end_percent", 1.0, "ends"),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL with the guidance: for a sampler.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: ModelPatcher, scale: float, space: str, vae: Any = None, loss: str = "mse",
        rule: str = "v2", repeats: int = 1, start_percent: float = 0.0, end_percent: float = 1.0,
    ) -> io.NodeOutput:  # fmt: skip
        act = window(start_percent, end_percent)
        settings = GuidanceSettings(scale, space, loss, rule, repeats, **act)
        if space == "rgb" and vae is None:
            raise ValueError(
                "The space rgb compares pictures, and needs the VAE that decodes them: connect the VAE of "
                "Load Base Restorer, or take the space latent."
            )
        restorer_of(model, vae if space == "rgb" else None)
        if not scale:
            return io.NodeOutput(model.clone())
        decoder = GradientDecoder(vae) if space == "rgb" else None
        return io.NodeOutput(with_guidance(model, Guide(settings, decoder)))
