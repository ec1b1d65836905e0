"""Our MODEL in other people's graphs: a mask, guidance by prompts, and a LoRA."""

from __future__ import annotations

from .native import SAMPLING, START, STARTED, finish, finished
from .parts import Node, Workflow

PROMPT = "a photo of a person"

INPAINT = Workflow(
    "restore_a_part",
    (
        *START,
        Node("masked", "SetLatentNoiseMask"),
        Node("sampler", "KSampler", widgets=SAMPLING),
        *finish("part"),
        Node("compose", "ImageCompositeMasked"),
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
)

GUIDED = Workflow(
    "restore_with_prompts",
    (
        *START,
        Node("good", "CLIPTextEncode", "What it shows", {"text": PROMPT}),
        Node("bad", "CLIPTextEncode", "What it must not be", {"text": "blurry"}),
        Node("noise", "RandomNoise", widgets={"noise_seed": 0}),
        Node("guider", "CFGGuider", widgets={"cfg": 2.0}),
        Node("kind", "KSamplerSelect", widgets={"sampler_name": "dpmpp_2m"}),
        Node("sigmas", "BasicScheduler", widgets={"scheduler": "karras", "steps": 10, "denoise": 1.0}),
        Node("sampler", "SamplerCustomAdvanced"),
        *finish("prompts"),
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
)

LORA_STEPS = 16
"""Also a part of the saved file's name."""

LORA = Workflow(
    "restore_with_a_lora",
    (
        *START,
        Node("encode", "VAEEncode"),
        Node("words", "CLIPTextEncode", "What it shows", {"text": PROMPT}),
        Node("learn", "TrainLoraNode",
             widgets={"steps": LORA_STEPS, "rank": 4, "seed": 0, "training_dtype": "fp32",
                      "lora_dtype": "fp32", "gradient_checkpointing": False}),
        Node("apply", "LoraModelLoader", widgets={"strength_model": 1.0}),
        Node("keep", "SaveLoRA", widgets={"prefix": "loras/PFStorer", "steps": LORA_STEPS}),
        Node("sampler", "KSampler", widgets=SAMPLING),
        *finish("lora"),
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
)  # fmt: skip
