"""Restore in stages: ComfyUI's KSampler (Advanced) on our MODEL, the first steps and the last ones apart."""

from __future__ import annotations

from .native import STARTED, finish, finished, start
from .parts import BYPASSED, Node, Workflow

TURN = 2
"""The step at which the second stage takes over."""
STAGE = {"noise_seed": 0, "control_after_generate": "fixed", "cfg": 1.0, "scheduler": "normal", "steps": 4}
LAST = 10_000

STAGES = Workflow(
    "Restore in stages",
    "restore_in_stages",
    (
        *start(
            "**The first steps and the last ones by different settings**, with *KSampler (Advanced)*.\n\n"
            "The first stage lays the picture out, the second draws the details. Put *Apply Personalization* "
            "before one of them to have a person act in that stage only, or give them different samplers.\n\n"
            "Switched off (select and press Ctrl+B): *TorchCompileModel*, which needs a C++ compiler and "
            "takes minutes before the first step; and *ModelSave*, which writes the MODEL as it is now into "
            "ComfyUI's output folder."
        ),
        Node("compiled", "TorchCompileModel", (920, 480), (360, 60), mode=BYPASSED),
        Node("kept", "ModelSave", (920, 600), (360, 60), mode=BYPASSED,
             widgets={"filename_prefix": "diffusion_models/PFStorer"}),
        Node("first", "KSamplerAdvanced", (1320, 40), (340, 560), "The first stage",
             {**STAGE, "sampler_name": "ddpm", "add_noise": "enable", "start_at_step": 0, "end_at_step": TURN,
              "return_with_leftover_noise": "enable"}),
        Node("second", "KSamplerAdvanced", (1700, 40), (340, 560), "The second stage",
             {**STAGE, "sampler_name": "euler", "add_noise": "disable", "start_at_step": TURN,
              "end_at_step": LAST, "return_with_leftover_noise": "disable"}),
        *finish(2080, "stages"),
    ),
    (
        *STARTED,
        ("tiled", "MODEL", "compiled", "model"),
        ("tiled", "MODEL", "kept", "model"),
        *(("compiled", "MODEL", stage, "model") for stage in ("first", "second")),
        *(("lq", side, stage, side) for stage in ("first", "second") for side in ("positive", "negative")),
        ("lq", "LATENT", "first", "latent_image"),
        ("first", "LATENT", "second", "latent_image"),
        *finished("second"),
        ("fix", "IMAGE", "save", "images"),
    ),
    picture="restore_and_upscale",
)  # fmt: skip
