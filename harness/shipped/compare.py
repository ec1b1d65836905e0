"""Compare restorers: two of them in one graph, and one of them with two samplers."""

from __future__ import annotations

from .native import SAMPLING
from .parts import EXAMPLE, Links, Node, Workflow, note

RESTORERS = ("first", "second")
ROW = {"large": None, "one": "first", "two": "first", "three": "second"}
"""What the result shows, from left to right, and by which restorer it is made."""
SAMPLERS = {
    "one": {},
    "two": {"sampler_name": "dpmpp_2m", "scheduler": "karras", "steps": 10},
    "three": {"seed": 1},
}
STITCHED = tuple(ROW)[1:]


def _restorer(n: int, name: str) -> tuple[Node, ...]:
    top = 40 + 560 * n
    return (
        Node(name, "LoadBaseRestorer", (480, top), (400, 120), f"The {name} restorer"),
        Node(f"tiled {name}", "RestorationTiling", (920, top), (320, 140)),
        Node(f"lq {name}", "RestorationConditioning", (920, top + 240), (320, 140)),
    )


def _sampler(n: int, name: str) -> tuple[Node, ...]:
    top = 40 + 560 * n
    return (
        Node(name, "KSampler", (1280, top), (320, 480), f"Picture {n + 1}: the {ROW[name]} restorer",
             {**SAMPLING, **SAMPLERS[name]}),
        Node(f"decode {name}", "VAEDecode", (1640, top), (280, 60)),
        Node(f"fix {name}", "RestorationColorFix", (1640, top + 120), (280, 100)),
        Node(f"stitch {name}", "ImageStitch", (1640, top + 280), (280, 120),
             widgets={"spacing_width": 8}),
    )  # fmt: skip


def _links() -> Links:
    links = [("image", "IMAGE", "large", "image")]
    for restorer in RESTORERS:
        links += [
            (restorer, "MODEL", f"tiled {restorer}", "model"),
            (f"tiled {restorer}", "MODEL", f"lq {restorer}", "model"),
            (restorer, "VAE", f"lq {restorer}", "vae"),
            ("large", "IMAGE", f"lq {restorer}", "image"),
        ]
    before = "large"
    for name in STITCHED:
        restorer = ROW[name]
        links += [
            (f"tiled {restorer}", "MODEL", name, "model"),
            (f"lq {restorer}", "positive", name, "positive"),
            (f"lq {restorer}", "negative", name, "negative"),
            (f"lq {restorer}", "LATENT", name, "latent_image"),
            (name, "LATENT", f"decode {name}", "samples"),
            (f"{restorer}", "VAE", f"decode {name}", "vae"),
            (f"decode {name}", "IMAGE", f"fix {name}", "image"),
            ("large", "IMAGE", f"fix {name}", "reference"),
            (before, "IMAGE", f"stitch {name}", "image1"),
            (f"fix {name}", "IMAGE", f"stitch {name}", "image2"),
        ]
        before = f"stitch {name}"
    return (*links, (before, "IMAGE", "save", "images"))


COMPARE = Workflow(
    "Compare restorers",
    "compare_restorers",
    (
        note(
            "welcome", (40, 40), (400, 290), "1 · Start here",
            "**Two restorers, and two samplers of one of them, side by side.**\n\n"
            "Choose the picture and two restorers, and press **Run**. The result shows, from left to right: "
            "the enlarged picture, the first restorer, the same with another sampler, and the second "
            "restorer (as long as it is the same file, with another seed).",
        ),
        Node("image", "LoadImage", (40, 400), (400, 420), "Load Image: the bad picture", {"image": EXAMPLE}),
        Node("large", "ImageScaleBy", (40, 880), (400, 100), "Enlarge",
             {"upscale_method": "bicubic", "scale_by": 2.0}),
        *(node for n, name in enumerate(RESTORERS) for node in _restorer(n, name)),
        *(node for n, name in enumerate(STITCHED) for node in _sampler(n, name)),
        Node("save", "SaveImage", (1960, 40), (800, 340), widgets={"filename_prefix": "PFStorer_compared"}),
    ),
    _links(),
    picture="restore_and_upscale",
)  # fmt: skip
