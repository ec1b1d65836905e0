"""Restore Faces, a subgraph blueprint: all faces in a picture or film, each as its own person."""

from __future__ import annotations

from dataclasses import dataclass

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
        columns: how the nodes stand inside, by their names.
    """

    title: str
    category: str
    description: str
    search_aliases: tuple[str, ...]
    nodes: tuple[Node, ...]
    links: Links
    exposed: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]
    outputs: tuple[tuple[str, str, str, str], ...]
    columns: tuple[tuple[str, ...], ...]


RESTORE_FACES = Blueprint(
    "Restore Faces",
    "PFStorer",
    "Finds the faces in pictures or films, gives each to the person whose adapter it belongs to, restores it "
    "as that person and puts it back. The rest, and faces of nobody, are enlarged only.",
    ("face restore", "face fix", "gfpgan", "codeformer", "facedetailer", "reactor", "blurry", "deblur",
     "old photo", "upscale face", "group photo", "video", "film", "pfstorer"),
    (
        Node("choose", "ChooseIdentity"),
        Node("upscale", "PrimitiveFloat", "upscale", {"value": 2.0},
             properties={"min": 1, "max": 8, "step": 0.25, "precision": 2}),
        Node("crop", "RestorationCropFace"),
        Node("apply", "ApplyPersonalization"),
        Node("restore", "TiledSRSampler", widgets=AT_ITS_BEST),
        Node("large", "ImageScaleBy", widgets={"upscale_method": "lanczos"}),
        Node("paste", "RestorationPasteFace"),
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
    (("choose", "upscale"), ("crop", "apply"), ("restore",), ("large", "paste")),
)  # fmt: skip

BLUEPRINTS = (RESTORE_FACES,)
