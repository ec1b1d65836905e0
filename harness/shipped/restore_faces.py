"""Restore Faces, a subgraph blueprint: all faces in a picture or film, each as its own person."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .parts import AT_ITS_BEST, Links, Node

PEOPLE = 4
"""Whom the node has inputs for; who opens it up finds place for more."""


@dataclass(frozen=True)
class Blueprint:
    """A subgraph that the canvas offers as a node: what it is called and found by, and what is in it.

    Attributes:
        exposed: each input's name, its type, and the inputs (node, input) inside that it goes to. What is a
            widget there is a widget outside, too.
        outputs: each output's name, its type, and where it comes from.
        properties: of nodes inside, by their names.
    """

    title: str
    category: str
    description: str
    search_aliases: tuple[str, ...]
    nodes: tuple[Node, ...]
    links: Links
    exposed: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]
    outputs: tuple[tuple[str, str, str, str], ...]
    properties: dict[str, dict[str, Any]] = field(default_factory=dict)


RESTORE_FACES = Blueprint(
    "Restore Faces",
    "PFStorer",
    "Finds the faces in pictures or films, gives each to the person whose adapter it belongs to, restores it "
    "as that person and puts it back. The rest, and faces of nobody, are enlarged only.",
    ("face restore", "face fix", "gfpgan", "codeformer", "facedetailer", "reactor", "blurry", "deblur",
     "old photo", "upscale face", "group photo", "video", "film", "pfstorer"),
    (
        Node("choose", "ChooseIdentity", (340, 0), (320, 240)),
        Node("crop", "RestorationCropFace", (700, 0), (300, 200)),
        Node("apply", "ApplyPersonalization", (700, 300), (300, 200)),
        Node("restore", "TiledSRSampler", (1040, 0), (320, 480), widgets=AT_ITS_BEST),
        Node("upscale", "PrimitiveFloat", (340, 560), (320, 80), "upscale", {"value": 2.0}),
        Node("large", "ImageScaleBy", (1040, 560), (320, 100), widgets={"upscale_method": "lanczos"}),
        Node("paste", "RestorationPasteFace", (1400, 0), (300, 140)),
    ),
    (
        ("choose", "images", "crop", "image"),
        ("choose", "bboxes", "crop", "bboxes"),
        ("choose", "identity_adapter", "apply", "identity_adapter"),
        ("crop", "IMAGE", "restore", "image"),
        ("apply", "MODEL", "restore", "model"),
        ("upscale", "FLOAT", "restore", "upscale"),
        ("upscale", "FLOAT", "large", "scale_by"),
        ("large", "IMAGE", "paste", "image"),
        ("restore", "IMAGE", "paste", "face"),
        ("crop", "face_crop", "paste", "face_crop"),
    ),
    (
        ("image", "IMAGE", (("choose", "image"), ("large", "image"))),
        ("model", "MODEL", (("apply", "model"), ("crop", "model"))),
        ("vae", "VAE", (("restore", "vae"),)),
        *((f"person_{n + 1}", "IDENTITY_ADAPTER", (("choose", f"identity_adapters.identity_adapter_{n}"),))
          for n in range(PEOPLE)),
        ("bboxes", "BOUNDING_BOX", (("choose", "bboxes"),)),
        ("threshold", "FLOAT", (("choose", "threshold"),)),
        ("others", "COMBO", (("choose", "others"),)),
        ("gamma", "FLOAT", (("apply", "gamma"),)),
        ("upscale", "FLOAT", (("upscale", "value"),)),
        ("steps", "INT", (("restore", "steps"),)),
        ("cfg", "FLOAT", (("restore", "cfg"),)),
        ("seed", "INT", (("restore", "seed"),)),
        ("strength", "FLOAT", (("paste", "strength"),)),
    ),
    (
        ("IMAGE", "IMAGE", "paste", "IMAGE"),
        ("report", "STRING", "choose", "report"),
        ("sheet", "IMAGE", "choose", "sheet"),
    ),
    {"upscale": {"min": 1, "max": 8, "step": 0.25, "precision": 2}},
)  # fmt: skip

BLUEPRINTS = (RESTORE_FACES,)
