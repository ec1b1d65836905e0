"""Identity without training: photos that are looked at, and a recogniser that steers."""

from __future__ import annotations

from dataclasses import replace

from .captions import captioned, in_a_row
from .diffbir import enlarge, restore
from .parts import AT_ITS_BEST, CONSENT, Links, Node, Workflow, bad_picture, good_photos, note

GUIDE, JUDGE = "dlib_resnet29.safetensors", "pfstorer_iresnet.safetensors"
"""What guides does not judge."""
SAMPLING = {**AT_ITS_BEST, "steps": 4}
"""In fewer steps hardly one lies in the window of the guidance."""
ROW = (
    ("large", "bad picture"),
    ("base", "base"),
    ("looked", "photos looked at"),
    ("guided", "recogniser steers"),
)
MODELS = {"base": "restorer", "looked": "references", "guided": "guidance"}


def _links() -> Links:
    return (
        ("image", "IMAGE", "large", "image"),
        *(("restorer", "MODEL", name, "model") for name in ("references", "guidance")),
        *(("restorer", "VAE", name, "vae") for name in ("references", "guidance", *MODELS)),
        *(("photos", "IMAGE", name, "photos.photo_0") for name in ("references", "guidance", "report")),
        ("guide", "recognizer", "guidance", "recognizer"),
        ("judge", "recognizer", "report", "recognizer"),
        ("guide", "recognizer", "report", "second"),
        ("guidance", "MODEL", "report", "model"),
        *((model, "MODEL", name, "model") for name, model in MODELS.items()),
        *(("image", "IMAGE", name, "image") for name in MODELS),
        *((name, "IMAGE", f"caption {name}", "images") for name, _ in ROW),
        *in_a_row([name for name, _ in ROW]),
        (f"with {ROW[-1][0]}", "IMAGE", "save", "images"),
        ("guided", "IMAGE", "report", "result"),
        ("base", "IMAGE", "report", "base"),
        ("large", "IMAGE", "report", "bad"),
        ("report", "sheet", "sheet", "images"),
    )


def _sampler(n: int, name: str, title: str) -> Node:
    node = restore(name, (920, 40 + 800 * n), title)
    return replace(node, widgets={**node.widgets, **SAMPLING})


IDENTITY_WITHOUT_TRAINING = Workflow(
    "Identity without training",
    "identity_without_training",
    (
        note(
            "welcome", (40, 40), (400, 330), "1 · Start here",
            "**Restores a bad picture as a person, from photos alone.** Two ways, and nothing is learned:\n\n"
            "- *Reference Attention*: the restorer looks at the photos while it draws.\n"
            "- *Face Identity Guidance*: a face recogniser says in which direction the person is.\n\n"
            "Press **Run**, or put *Load Image* with the bad picture and with good photos in place of the "
            "two *Example Pictures* first. *Likeness Report* says how much each looks like the person.",
        ),
        bad_picture((40, 420)),
        good_photos((40, 880)),
        Node("restorer", "LoadBaseRestorer", (480, 40), (400, 160)),
        *(
            Node(name, "LoadFaceRecognizer", (480, 340 + 150 * n), (400, 80), title, {"name": file})
            for n, (name, file, title) in enumerate(
                (("guide", GUIDE, "A recogniser that guides"), ("judge", JUDGE, "Another one that judges"))
            )
        ),
        Node("references", "ReferenceAttention", (480, 660), (400, 260)),
        Node("guidance", "FaceIdentityGuidance", (480, 1060), (400, 260)),
        note(
            "strength", (480, 1460), (400, 260), "2 · How much",
            "More *strength* of the guidance looks like noise that only its recogniser likes: judge by your "
            "eyes, and by another recogniser.\n\n"
            "The restorer that comes with the pack never learned with photos beside it: *Reference "
            "Attention* is for ReF-LDM's weights, and changes little here.",
        ),
        note("consent", (480, 1760), (400, 170), "Before you use it on people", CONSENT),
        enlarge((40, 1340)),
        *(_sampler(n, name, title) for n, (name, title) in enumerate(ROW[1:])),
        *captioned(ROW, 1360, 40),
        Node("report", "LikenessReport", (1360, 1400), (400, 220)),
        Node("save", "SaveImage", (2080, 40), (900, 340), widgets={"filename_prefix": "PFStorer_untrained"}),
        Node("sheet", "PreviewImage", (2080, 460), (900, 420), "The report's faces"),
    ),
    _links(),
)  # fmt: skip
