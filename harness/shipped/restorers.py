"""Compare restorers: two of them in one graph, and one of them with two samplers."""

from __future__ import annotations

from .native import SAMPLING
from .parts import EXAMPLE, Links, Node, Workflow, enlarge

RESTORERS = ("first", "second")
ROW = {"large": None, "one": "first", "two": "first", "three": "second"}
"""What the result shows, from left to right, and by which restorer it is made."""
SAMPLERS = {
    "one": {},
    "two": {"sampler_name": "dpmpp_2m", "scheduler": "karras", "steps": 10},
    "three": {"seed": 1},
}
STITCHED = tuple(ROW)[1:]


def _restorer(name: str) -> tuple[Node, ...]:
    return (
        Node(name, "LoadBaseRestorer", f"The {name} restorer"),
        Node(f"tiled {name}", "RestorationTiling"),
        Node(f"lq {name}", "RestorationConditioning"),
    )


def _sampler(n: int, name: str) -> tuple[Node, ...]:
    title = f"Picture {n + 1}: the {ROW[name]} restorer"
    return (
        Node(name, "KSampler", title, {**SAMPLING, **SAMPLERS[name]}),
        Node(f"decode {name}", "VAEDecode"),
        Node(f"fix {name}", "RestorationColorFix"),
        Node(f"stitch {name}", "ImageStitch", widgets={"spacing_width": 8}),
    )


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


COMPARE_RESTORERS = Workflow(
    "compare_restorers",
    (
        Node("image", "LoadImage", "Load Image: the bad picture", {"image": EXAMPLE}),
        enlarge(),
        *(node for name in RESTORERS for node in _restorer(name)),
        *(node for n, name in enumerate(STITCHED) for node in _sampler(n, name)),
        Node("save", "SaveImage", widgets={"filename_prefix": "PFStorer_compared"}),
    ),
    _links(),
)
