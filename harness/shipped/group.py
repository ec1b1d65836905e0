"""Restore a group: several people in one picture, each by an adapter of their own."""

from __future__ import annotations

from .parts import AT_ITS_BEST, CONSENT, EXAMPLE, Node, Workflow, note
from .person import DRAWN_PERSON

PEOPLE = ("left", "middle", "right")
BOX = {"y": 200, "width": 160, "height": 160}
"""Pixels; what a user moves to the faces of a picture of their own."""


def _row(n: int, name: str) -> tuple[Node, ...]:
    """What one person passes through."""
    top = 40 + 760 * n
    return (
        Node(f"box {name}", "PrimitiveBoundingBox", (480, top), (260, 160), f"Face {n + 1}: {name}",
             {"x": 40 + 240 * n, **BOX}),
        Node(f"crop {name}", "RestorationCropFace", (780, top), (280, 160), widgets={"context": 0.6}),
        Node(f"adapter {name}", "LoadIdentityAdapter", (480, top + 240), (260, 80), f"Who is {name}?",
             {"name": f"{DRAWN_PERSON}.safetensors"}),
        Node(f"apply {name}", "ApplyPersonalization", (780, top + 240), (280, 160)),
        Node(f"restore {name}", "TiledSRSampler", (1100, top), (320, 480),
             widgets={"upscale": 2.0, **AT_ITS_BEST}),
        Node(f"paste {name}", "RestorationPasteFace", (1460, top), (280, 140)),
    )  # fmt: skip


def _links() -> tuple[tuple[str, str, str, str], ...]:
    links = [("image", "IMAGE", "large", "image")]
    before = "large"
    for name in PEOPLE:
        links += [
            (f"box {name}", "BOUNDING_BOX", f"crop {name}", "bboxes"),
            ("image", "IMAGE", f"crop {name}", "image"),
            ("restorer", "MODEL", f"apply {name}", "model"),
            (f"adapter {name}", "identity_adapter", f"apply {name}", "identity_adapter"),
            (f"apply {name}", "MODEL", f"restore {name}", "model"),
            ("restorer", "VAE", f"restore {name}", "vae"),
            (f"crop {name}", "IMAGE", f"restore {name}", "image"),
            (before, "IMAGE", f"paste {name}", "image"),
            (f"restore {name}", "IMAGE", f"paste {name}", "face"),
            (f"crop {name}", "face_crop", f"paste {name}", "face_crop"),
        ]
        before = f"paste {name}"
    return (*links, (before, "IMAGE", "save", "images"))


RESTORE_A_GROUP = Workflow(
    "Restore a group",
    "restore_a_group",
    (
        note(
            "welcome", (40, 40), (400, 300), "1 · Start here",
            "**Restores the people in one picture, each as themselves.**\n\n"
            "Choose the picture, put a box around each face (or connect *Find Faces* to the three *Crop "
            "Face* nodes and count the faces from left to right), and choose who it is: people are learned "
            "by the workflow *Learn a person*.\n\n"
            "Everything outside of the faces' windows is the enlarged picture, untouched.",
        ),
        Node("image", "LoadImage", (40, 400), (400, 380), "Load Image: the group", {"image": EXAMPLE}),
        Node("large", "ImageScaleBy", (40, 840), (400, 100), "Enlarge",
             {"upscale_method": "lanczos", "scale_by": 2.0}),
        Node("restorer", "LoadBaseRestorer", (40, 1000), (400, 120)),
        note("consent", (40, 1280), (400, 200), "Before you use it on people", CONSENT),
        *(node for n, name in enumerate(PEOPLE) for node in _row(n, name)),
        Node("save", "SaveImage", (1780, 40), (640, 480), widgets={"filename_prefix": "PFStorer_group"}),
    ),
    _links(),
    picture="restore_a_group",
)  # fmt: skip
