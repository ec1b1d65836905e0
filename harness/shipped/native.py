"""Restore with native nodes: ComfyUI's own KSampler and VAE on our MODEL."""

from __future__ import annotations

from .parts import AT_ITS_BEST, EXAMPLE, Links, Node, Workflow, enlarge

SAMPLING = {**AT_ITS_BEST, "cfg": 1.0, "scheduler": "normal", "denoise": 1.0}
START = (
    Node("image", "LoadImage", "Load Image: the bad picture", {"image": EXAMPLE}),
    Node("restorer", "LoadBaseRestorer"),
    enlarge(),
    Node("tiled", "RestorationTiling"),
    Node("lq", "RestorationConditioning"),
)
"""What every graph begins with: the picture, enlarged, and the restorer."""
STARTED: Links = (
    ("image", "IMAGE", "large", "image"),
    ("restorer", "MODEL", "tiled", "model"),
    ("tiled", "MODEL", "lq", "model"),
    ("restorer", "VAE", "lq", "vae"),
    ("large", "IMAGE", "lq", "image"),
)


def finish(name: str) -> tuple[Node, ...]:
    """What every graph ends with, from the latent of a sampler to the saved picture."""
    return (
        Node("decode", "VAEDecode"),
        Node("fix", "RestorationColorFix"),
        Node("save", "SaveImage", widgets={"filename_prefix": f"PFStorer_{name}"}),
    )


def finished(sampler: str, output: str = "LATENT") -> Links:
    return (
        (sampler, output, "decode", "samples"),
        ("restorer", "VAE", "decode", "vae"),
        ("decode", "IMAGE", "fix", "image"),
        ("large", "IMAGE", "fix", "reference"),
    )


NATIVE = Workflow(
    "restore_with_native_nodes",
    (*START, Node("sampler", "KSampler", widgets=SAMPLING), *finish("native")),
    (
        *STARTED,
        ("tiled", "MODEL", "sampler", "model"),
        ("lq", "positive", "sampler", "positive"),
        ("lq", "negative", "sampler", "negative"),
        ("lq", "LATENT", "sampler", "latent_image"),
        *finished("sampler"),
        ("fix", "IMAGE", "save", "images"),
    ),
)
