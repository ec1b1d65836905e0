"""Restore with native nodes: ComfyUI's own KSampler and VAE on our MODEL."""

from __future__ import annotations

from .parts import AT_ITS_BEST, EXAMPLE, Links, Node, Workflow, note

SAMPLING = {**AT_ITS_BEST, "cfg": 1.0, "scheduler": "normal", "denoise": 1.0}


def start(text: str) -> tuple[Node, ...]:
    """What every graph begins with: the picture, enlarged, and the restorer."""
    return (
        note("welcome", (40, 40), (400, 250), "1 · Start here", text),
        Node("image", "LoadImage", (40, 340), (400, 420), "Load Image: the bad picture", {"image": EXAMPLE}),
        Node("restorer", "LoadBaseRestorer", (480, 40), (400, 120)),
        Node("large", "ImageScaleBy", (480, 340), (400, 100), "Enlarge",
             {"upscale_method": "bicubic", "scale_by": 2.0}),
        Node("tiled", "RestorationTiling", (920, 40), (360, 140)),
        Node("lq", "RestorationConditioning", (920, 280), (360, 140)),
    )  # fmt: skip


STARTED: Links = (
    ("image", "IMAGE", "large", "image"),
    ("restorer", "MODEL", "tiled", "model"),
    ("tiled", "MODEL", "lq", "model"),
    ("restorer", "VAE", "lq", "vae"),
    ("large", "IMAGE", "lq", "image"),
)


def finish(column: int, name: str) -> tuple[Node, ...]:
    """What every graph ends with, from the latent of a sampler to the saved picture."""
    return (
        Node("decode", "VAEDecode", (column, 40), (340, 60)),
        Node("fix", "RestorationColorFix", (column, 160), (340, 100)),
        Node("save", "SaveImage", (column, 380), (480, 440), widgets={"filename_prefix": f"PFStorer_{name}"}),
    )


def finished(sampler: str, output: str = "LATENT") -> Links:
    return (
        (sampler, output, "decode", "samples"),
        ("restorer", "VAE", "decode", "vae"),
        ("decode", "IMAGE", "fix", "image"),
        ("large", "IMAGE", "fix", "reference"),
    )


NATIVE = Workflow(
    "Restore with native nodes",
    "restore_with_native_nodes",
    (
        *start(
            "**The same restoration with ComfyUI's own KSampler**, for graphs of your own.\n\n"
            "*Restoration Conditioning* gives any sampler the bad picture, already enlarged; *Tiled "
            "Diffusion* lets it work tile by tile. Between *Load Base Restorer* and *Tiled Diffusion* is the "
            "place for LoRA loaders and *Apply Personalization*.",
        ),
        Node("sampler", "KSampler", (1320, 40), (340, 480), widgets=SAMPLING),
        *finish(1700, "native"),
        note(
            "settings", (480, 560), (400, 200), "2 · The settings that matter",
            "- **denoise** stays at 1, and **cfg** at 1 unless you write prompts.\n"
            "- Other samplers and schedulers work as well; *ddpm* with *normal* is StableSR's own.\n"
            "- For large results take *VAE Decode (Tiled)*.",
        ),
    ),
    (
        *STARTED,
        ("tiled", "MODEL", "sampler", "model"),
        ("lq", "positive", "sampler", "positive"),
        ("lq", "negative", "sampler", "negative"),
        ("lq", "LATENT", "sampler", "latent_image"),
        *finished("sampler"),
        ("fix", "IMAGE", "save", "images"),
    ),
    picture="restore_and_upscale",
)  # fmt: skip
