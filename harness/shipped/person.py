"""Learn a person, and restore a person."""

from __future__ import annotations

from .parts import AT_ITS_BEST, CONSENT, EXAMPLE, Links, Node, Workflow, note

NAME = "my_person"
"""What the one workflow learns."""
DRAWN_PERSON = "drawn_person"
"""An adapter that comes with the pack, so that the other one works at once: of a person who was drawn."""


PHOTOS = tuple(
    Node(f"photo{n}", "LoadImage", (40, 350 + 400 * n), (400, 360), f"Load Image: photo {n + 1}",
         {"image": EXAMPLE})
    for n in range(3)
)  # fmt: skip
"""To learn from, one below the other."""


def learning_shown(prefix: str) -> tuple[Node, ...]:
    """What is seen of a training, and whom it may be of."""
    return (
        Node("preview", "SaveImage", (920, 40), (560, 320), "The last preview", {"filename_prefix": prefix}),
        Node("loss", "LossGraphNode", (920, 420), (560, 380)),
        note("consent", (920, 860), (560, 150), "Before you use it on people", CONSENT),
    )


LEARNING: Links = (
    ("restorer", "MODEL", "train", "model"),
    ("restorer", "CLIP", "train", "clip"),
    ("restorer", "VAE", "train", "vae"),
    *((photo.name, "IMAGE", "train", f"photos.photo_{n}") for n, photo in enumerate(PHOTOS)),
    ("train", "loss", "loss", "loss"),
    ("train", "preview", "preview", "images"),
)
"""Of every workflow that learns a person."""

LEARN_A_PERSON = Workflow(
    "Learn a person",
    "learn_a_person",
    (
        note(
            "welcome",
            (40, 40),
            (400, 260),
            "1 · Start here",
            "**Learns a person from a few good photos, once.**\n\n"
            "Choose 3 to 5 photos of one person (light, view and expression may differ; add *Load Image* "
            "nodes for more), give them a name, and press **Run**.\n\n"
            "What is learned is a file in `models/identity_adapters`. The workflow *Restore a person* uses "
            "it. A run that was stopped goes on where it was.",
        ),
        *PHOTOS,
        Node("restorer", "LoadBaseRestorer", (480, 40), (400, 120)),
        Node(
            "train",
            "TrainIdentityAdapter",
            (480, 310),
            (400, 520),
            widgets={"name": NAME, "seed": 0},
        ),
        note(
            "settings",
            (480, 1000),
            (400, 240),
            "2 · While it runs",
            "The time that is left is shown on the node. The picture below it is a damaged photo, what the "
            "base makes of it, what it makes of it so far with the person, and the photo.\n\n"
            "With `pfstorer_tiny` and no graphics card 500 steps take a quarter of an hour. For real people "
            "use StableSR's weights with Stable Diffusion 2.1 and a graphics card.",
        ),
        *learning_shown("PFStorer_learned"),
    ),
    LEARNING,
)  # fmt: skip

GAMMAS = (0.5, 1.0, 1.5)
ROW = ("image", "base", *(f"gamma{gamma}" for gamma in GAMMAS))
"""From left to right, in the result."""


def _restore(name: str, column: int, row: int, title: str) -> Node:
    widgets = {"upscale": 2.0, **AT_ITS_BEST}
    return Node(name, "TiledSRSampler", (40 + 440 * column, 40 + 800 * row), (400, 480), title, widgets)


RESTORE_A_PERSON = Workflow(
    "Restore a person",
    "restore_a_person",
    (
        note(
            "welcome",
            (40, 40),
            (400, 240),
            "1 · Start here",
            "**Restores a bad picture of a person as that person.**\n\n"
            "First learn the person with the workflow *Learn a person*; then choose them and the picture, "
            "and press **Run**. (*drawn_person* comes with the pack: a drawing, of nobody.) The result "
            "shows, from left to right: the bad picture, the base restorer, and the "
            f"person at gamma {', '.join(map(str, GAMMAS))}.",
        ),
        Node("image", "LoadImage", (40, 330), (400, 380), "Load Image: the bad picture", {"image": EXAMPLE}),
        Node("restorer", "LoadBaseRestorer", (480, 40), (400, 120)),
        Node("person", "LoadIdentityAdapter", (480, 310), (400, 80),
             widgets={"name": f"{DRAWN_PERSON}.safetensors"}),
        note("consent", (480, 450), (400, 200), "Before you use it on people", CONSENT),
        *(
            Node(f"apply{gamma}", "ApplyPersonalization", (920, 40 + 220 * n), (400, 160), f"gamma {gamma}",
                 {"gamma": gamma})
            for n, gamma in enumerate(GAMMAS)
        ),
        _restore("base", 3, 0, "Base restorer"),
        *(
            _restore(f"gamma{gamma}", 3 + n % 2, n // 2, f"gamma {gamma}")
            for n, gamma in enumerate(GAMMAS, 1)
        ),
        Node(
            "large", "ImageScaleBy", (920, 720), (400, 100),
            widgets={"upscale_method": "bicubic", "scale_by": 2.0},
        ),
        *(
            Node(
                f"stitch{n}", "ImageStitch", (2240, 220 * n - 180), (320, 120), widgets={"spacing_width": 8}
            )
            for n in range(1, len(ROW))
        ),
        Node("save", "SaveImage", (2240, 960), (640, 340), widgets={"filename_prefix": "PFStorer_person"}),
    ),
    (
        *((f"apply{gamma}", "MODEL", f"gamma{gamma}", "model") for gamma in GAMMAS),
        *(("restorer", "MODEL", f"apply{gamma}", "model") for gamma in GAMMAS),
        *(("person", "identity_adapter", f"apply{gamma}", "identity_adapter") for gamma in GAMMAS),
        ("restorer", "MODEL", "base", "model"),
        *(("restorer", "VAE", name, "vae") for name in ROW[1:]),
        *(("image", "IMAGE", name, "image") for name in ROW[1:]),
        ("image", "IMAGE", "large", "image"),
        ("large", "IMAGE", "stitch1", "image1"),
        *((f"stitch{n}", "IMAGE", f"stitch{n + 1}", "image1") for n in range(1, len(ROW) - 1)),
        *((name, "IMAGE", f"stitch{n}", "image2") for n, name in enumerate(ROW[1:], 1)),
        (f"stitch{len(ROW) - 1}", "IMAGE", "save", "images"),
    ),
)  # fmt: skip
