"""LoadBaseRestorer."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..pfstorer_core.restorers.files import open_restorer
from ..pfstorer_core.restorers.registry import variants
from .host.clip import build_clip, null_context
from .host.folders import (
    NONE,
    addon_paths,
    cfw_names,
    restorer_names,
    restorer_path,
    stamp,
    weight_names,
)
from .host.model import build_model, load_model
from .host.notes import described, show_notes
from .host.vae import build_vae, load_vae

DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PREDICTION_TYPES = {"auto": None, "eps": "eps", "v": "v"}


class LoadBaseRestorer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadBaseRestorer",
            display_name="Load Base Restorer",
            category="PFStorer",
            description="Loads a StableSR-like, DiffBIR or CLR-Face restorer as native MODEL, CLIP and VAE.",
            search_aliases=[
                "stablesr",
                "diffbir",
                "clr-face",
                "ref-ldm",
                "face restoration",
                "face restore",
                "restorer",
                "super resolution",
                "pfstorer",
            ],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=restorer_names(),
                    tooltip="A file of models/restorers or models/checkpoints. pfstorer_tiny comes with the "
                    "pack, to try things out: for real photographs get StableSR's weights (README).",
                ),
                io.Combo.Input(
                    "restorer_weights",
                    options=weight_names(),
                    default=NONE,
                    optional=True,
                    tooltip="StableSR's own weights alone, such as webui_768v_139.ckpt, or DiffBIR's control "
                    "network, such as v1_face.pth (models/stablesr or models/controlnet), for a checkpoint "
                    "that is plain Stable Diffusion 2.1; or one that was trained on the checkpoint.",
                ),
                io.Combo.Input(
                    "cfw_autoencoder",
                    options=cfw_names(),
                    default=NONE,
                    optional=True,
                    tooltip="StableSR's CFW autoencoder (models/stablesr or models/vae), such as "
                    "vqgan_cfw_00011.ckpt: what the samplers' fidelity needs. Or the first stage of a latent "
                    "diffusion model, such as vqgan.ckpt for refldm.ckpt.",
                ),
                io.Combo.Input(
                    "prediction_type",
                    options=list(PREDICTION_TYPES),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="What the network predicts. auto: what the file says, else its name "
                    "(768v and face are v), else eps.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Number format of weights and arithmetic. auto lets ComfyUI choose.",
                ),
                io.Combo.Input(
                    "variant",
                    options=["auto", *variants()],
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Which of the published weights of DiffBIR or latent diffusion these are. auto: "
                    "what the file or its name says. The node shows what it took.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="For Tiled SR Sampler, KSampler, LoRA loaders, …"),
                io.Clip.Output(tooltip="For prompts of your own; most restorations need none."),
                io.Vae.Output(tooltip="Of this restorer: it reads the bad picture and decodes the result."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(
        cls, checkpoint: str | None = None, restorer_weights: str | None = None,
        cfw_autoencoder: str | None = None, **_: Any,
    ) -> str:  # fmt: skip
        """A file that was replaced is loaded again. What is linked from another node is not known here."""
        restorer = [restorer_path(checkpoint)] if checkpoint else []
        return stamp(*restorer, *addon_paths(restorer_weights or NONE, cfw_autoencoder or NONE))

    @classmethod
    def execute(
        cls, checkpoint: str, restorer_weights: str = NONE, cfw_autoencoder: str = NONE,
        prediction_type: str = "auto", dtype: str = "auto", variant: str = "auto",
    ) -> io.NodeOutput:  # fmt: skip
        source = (
            restorer_path(checkpoint),
            addon_paths(restorer_weights, cfw_autoencoder),
            PREDICTION_TYPES[prediction_type],
            None if variant == "auto" else variant,
        )
        file = open_restorer(*source)
        file.check_fit()
        clip = build_clip(file, checkpoint)
        context = null_context(file, clip, checkpoint)
        model = build_model(file, DTYPES[dtype], context)
        model.cached_patcher_init = (load_model, (*source, DTYPES[dtype], context))
        vae = build_vae(file)
        vae.patcher.cached_patcher_init = (load_vae, source)
        if cls.hidden:  # shown and logged; not among the outputs of a prompt, which are pictures
            show_notes(cls.hidden.unique_id, [described(file)])
        return io.NodeOutput(model, clip, vae)
