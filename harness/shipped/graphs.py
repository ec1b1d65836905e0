"""Our MODEL in other people's graphs: a mask, guidance by prompts, and a LoRA."""

from __future__ import annotations

from .native import SAMPLING, STARTED, finish, finished, start
from .parts import Node, Workflow

PROMPT = "a photo of a person"


INPAINT = Workflow(
    "Restore a part",
    "restore_a_part",
    (
        *start(
            "**Restores what you mask and leaves the rest as it is, byte for byte.**\n\n"
            "Choose the picture, right-click it and *Open in MaskEditor*, paint over what is to be restored, "
            "and press **Run**. The sampler sees the whole picture; only the masked part is new. Without a "
            "mask nothing is."
        ),
        Node("masked", "SetLatentNoiseMask", (920, 480), (360, 60)),
        Node("sampler", "KSampler", (1320, 40), (340, 480), widgets=SAMPLING),
        *finish(1700, "part"),
        Node("compose", "ImageCompositeMasked", (1320, 600), (340, 140)),
    ),
    (
        *STARTED,
        ("tiled", "MODEL", "sampler", "model"),
        ("lq", "positive", "sampler", "positive"),
        ("lq", "negative", "sampler", "negative"),
        ("lq", "LATENT", "masked", "samples"),
        ("image", "MASK", "masked", "mask"),
        ("masked", "LATENT", "sampler", "latent_image"),
        *finished("sampler"),
        ("large", "IMAGE", "compose", "destination"),
        ("fix", "IMAGE", "compose", "source"),
        ("image", "MASK", "compose", "mask"),
        ("compose", "IMAGE", "save", "images"),
    ),
    picture="restore_and_upscale",
)  # fmt: skip

GUIDED = Workflow(
    "Restore with prompts",
    "restore_with_prompts",
    (
        *start(
            "**Guidance by prompts, and any sampler of ComfyUI's custom sampling.**\n\n"
            "Write what the picture shows, and what it must not be, and press **Run**. A cfg above 1 looks "
            "at both in every step. Choose any sampler and any scheduler."
        ),
        Node("good", "CLIPTextEncode", (480, 500), (400, 140), "What it shows", {"text": PROMPT}),
        Node("bad", "CLIPTextEncode", (480, 700), (400, 140), "What it must not be", {"text": "blurry"}),
        Node("noise", "RandomNoise", (1320, 40), (340, 80), widgets={"noise_seed": 0}),
        Node("guider", "CFGGuider", (1320, 180), (340, 100), widgets={"cfg": 2.0}),
        Node("kind", "KSamplerSelect", (1320, 340), (340, 60), widgets={"sampler_name": "dpmpp_2m"}),
        Node("sigmas", "BasicScheduler", (1320, 460), (340, 110),
             widgets={"scheduler": "karras", "steps": 10, "denoise": 1.0}),
        Node("sampler", "SamplerCustomAdvanced", (1320, 640), (340, 120)),
        *finish(1700, "prompts"),
    ),
    (
        *STARTED,
        ("restorer", "CLIP", "good", "clip"),
        ("restorer", "CLIP", "bad", "clip"),
        ("good", "CONDITIONING", "lq", "positive"),
        ("bad", "CONDITIONING", "lq", "negative"),
        ("tiled", "MODEL", "guider", "model"),
        ("lq", "positive", "guider", "positive"),
        ("lq", "negative", "guider", "negative"),
        ("tiled", "MODEL", "sigmas", "model"),
        ("noise", "NOISE", "sampler", "noise"),
        ("guider", "GUIDER", "sampler", "guider"),
        ("kind", "SAMPLER", "sampler", "sampler"),
        ("sigmas", "SIGMAS", "sampler", "sigmas"),
        ("lq", "LATENT", "sampler", "latent_image"),
        *finished("sampler", "output"),
        ("fix", "IMAGE", "save", "images"),
    ),
    picture="restore_and_upscale",
)  # fmt: skip

LORA_STEPS = 16
"""Also a part of the saved file's name."""

LORA = Workflow(
    "Restore with a LoRA",
    "restore_with_a_lora",
    (
        *start(
            "**A LoRA on a restorer, trained by ComfyUI itself.**\n\n"
            "*Train LoRA* learns from the picture that is encoded for it; connect good pictures of your own. "
            "LoRAs of Stable Diffusion 2.1 work on StableSR's restorers: load them by *LoRA Loader* instead."
        ),
        Node("encode", "VAEEncode", (480, 500), (400, 60)),
        Node("words", "CLIPTextEncode", (480, 620), (400, 140), "What it shows", {"text": PROMPT}),
        Node("learn", "TrainLoraNode", (920, 480), (360, 560),
             widgets={"steps": LORA_STEPS, "rank": 4, "seed": 0, "training_dtype": "fp32",
                      "lora_dtype": "fp32", "gradient_checkpointing": False}),
        Node("apply", "LoraModelLoader", (1320, 600), (340, 120), widgets={"strength_model": 1.0}),
        Node("keep", "SaveLoRA", (1320, 800), (340, 100),
             widgets={"prefix": "loras/PFStorer", "steps": LORA_STEPS}),
        Node("sampler", "KSampler", (1320, 40), (340, 480), widgets=SAMPLING),
        *finish(1700, "lora"),
    ),
    (
        *STARTED,
        ("image", "IMAGE", "encode", "pixels"),
        ("restorer", "VAE", "encode", "vae"),
        ("restorer", "CLIP", "words", "clip"),
        ("restorer", "MODEL", "learn", "model"),
        ("encode", "LATENT", "learn", "latents"),
        ("words", "CONDITIONING", "learn", "positive"),
        ("tiled", "MODEL", "apply", "model"),
        ("learn", "lora", "apply", "lora"),
        ("learn", "lora", "keep", "lora"),
        ("apply", "model", "sampler", "model"),
        ("lq", "positive", "sampler", "positive"),
        ("lq", "negative", "sampler", "negative"),
        ("lq", "LATENT", "sampler", "latent_image"),
        *finished("sampler"),
        ("fix", "IMAGE", "save", "images"),
    ),
    picture="restore_and_upscale",
)  # fmt: skip
