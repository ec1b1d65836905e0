"""LoadBaseRestorer."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..pfstorer_core.restorer import open_restorer
from .host import build_model, build_vae, load_model, load_vae
from .paths import restorer_names, restorer_path
from .text import build_clip, null_context

DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PREDICTION_TYPES = {"auto": None, "eps": "eps", "v": "v"}


class LoadBaseRestorer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadBaseRestorer",
            display_name="Load Base Restorer",
            category="PFStorer",
            description="Loads a StableSR-like restorer as a native MODEL, CLIP and VAE.",
            search_aliases=["stablesr", "face restoration", "restorer", "super resolution"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=restorer_names(),
                    tooltip="A file of models/restorers or models/checkpoints. pfstorer_tiny comes with the "
                    "pack, to try things out: for real photographs get StableSR's weights (README).",
                ),
                io.Combo.Input(
                    "prediction_type",
                    options=list(PREDICTION_TYPES),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="What the network predicts. auto: what the file says, else eps. "
                    "StableSR's 512 model is eps; its 768 and face models are v.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Number format of weights and arithmetic. auto lets ComfyUI choose.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="For TiledSRSampler, KSampler, LoRA loaders, …"),
                io.Clip.Output(tooltip="For prompts of your own; most restorations need none."),
                io.Vae.Output(),
            ],
        )

    @classmethod
    def execute(cls, checkpoint: str, prediction_type: str = "auto", dtype: str = "auto") -> io.NodeOutput:
        path = restorer_path(checkpoint)
        options = (PREDICTION_TYPES[prediction_type], DTYPES[dtype])
        file = open_restorer(path, options[0])
        clip = build_clip(file, checkpoint)
        context = null_context(file, clip)
        model = build_model(file, options[1], context)
        model.cached_patcher_init = (load_model, (path, *options, context))
        vae = build_vae(file)
        vae.patcher.cached_patcher_init = (load_vae, (path,))
        return io.NodeOutput(model, clip, vae)
