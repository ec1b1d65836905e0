"""Restore in stages: ComfyUI's KSampler (Advanced) on our MODEL, the first steps and the last ones apart."""

from __future__ import annotations

from .native import START, STARTED, finish, finished
from .parts import BYPASSED, Node, Workflow

TURN = 2
"""The step at which the second stage takes over."""
STAGE = {"noise_seed": 0, "control_after_generate": "fixed", "cfg": 1.0, "scheduler": "normal", "steps": 4}
LAST = 10_000

STAGES = Workflow(
    "restore_in_stages",
    (
        *START,
        Node("compiled", "TorchCompileModel", mode=BYPASSED),
        Node("kept", "ModelSave", mode=BYPASSED, widgets={"filename_prefix": "diffusion_models/PFStorer"}),
        Node("first", "KSamplerAdvanced", "The first stage",
             {**STAGE, "sampler_name": "ddpm", "add_noise": "enable", "start_at_step": 0, "end_at_step": TURN,
              "return_with_leftover_noise": "enable"}),
        Node("second", "KSamplerAdvanced", "The second stage",
             {**STAGE, "sampler_name": "euler", "add_noise": "disable", "start_at_step": TURN,
              "end_at_step": LAST, "return_with_leftover_noise": "disable"}),
        *finish("stages"),
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
)  # fmt: skip
