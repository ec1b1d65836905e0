"""Compare methods: one bad picture and one person, learned three ways, and steered by photos."""

from __future__ import annotations

from .captions import captioned, in_a_row
from .clr_face import MASK, prior, refine
from .diffbir import LEARNED as DUAL_PIVOT
from .diffbir import diffbir, enlarge, restore
from .parts import CONSENT, Links, Node, Workflow, bad_picture, good_photos, note
from .person import DRAWN_PERSON
from .untrained import GUIDE

LORA = f"{DRAWN_PERSON}_lora"
METHODS = {
    "pfstorer": (DRAWN_PERSON, "stablesr"),
    "lora": (LORA, "stablesr"),
    "dual_pivot": (DUAL_PIVOT, "diffbir"),
}
"""The adapter of each, and on which restorer it was learned."""
BASES = {"base": "stablesr", "base_diffbir": "diffbir", "clr_face": "prior"}
ABOVE = (
    ("large", "bad picture"),
    ("base", "StableSR"),
    ("base_diffbir", "DiffBIR"),
    ("clr_face", "CLR-Face"),
)
BELOW = (
    ("pfstorer", "PFStorer"), ("lora", "LoRA"), ("dual_pivot", "Dual-Pivot"), ("guided", "photos steer"),
)  # fmt: skip
TITLES = dict(ABOVE + BELOW)
CROPPED = ("clr_face", "guided")
"""Those that restore an aligned face alone."""


def _method(n: int, name: str) -> tuple[Node, ...]:
    adapter, _ = METHODS[name]
    return (
        Node(f"load {name}", "LoadIdentityAdapter", (920, 40 + 800 * n), (400, 80),
             f"The person by {TITLES[name]}", {"name": f"{adapter}.safetensors"}),
        Node(f"apply {name}", "ApplyPersonalization", (920, 200 + 800 * n), (400, 160), TITLES[name]),
        restore(name, (1360, 40 + 800 * n), TITLES[name]),
    )  # fmt: skip


def _links() -> Links:
    models = {**BASES, **{name: f"apply {name}" for name in METHODS}, "guided": "guidance"}
    restorers = {**BASES, **{name: restorer for name, (_, restorer) in METHODS.items()}, "guided": "prior"}
    rows = [[name for name, _ in row] for row in (ABOVE, BELOW)]
    return (
        ("image", "IMAGE", "large", "image"),
        *((restorer, "MODEL", f"apply {name}", "model") for name, (_, restorer) in METHODS.items()),
        *((f"load {name}", "identity_adapter", f"apply {name}", "identity_adapter") for name in METHODS),
        ("prior", "MODEL", "guidance", "model"),
        ("prior", "VAE", "guidance", "vae"),
        ("guide", "recognizer", "guidance", "recognizer"),
        ("photos", "IMAGE", "guidance", "photos.photo_0"),
        *(("image", "IMAGE", name, "image") for name in ("faces", "crop")),
        ("faces", "bboxes", "crop", "bboxes"),
        ("prior", "MODEL", "crop", "model"),
        *(("large", "IMAGE", f"paste {name}", "image") for name in CROPPED),
        *(("crop", "face_crop", f"paste {name}", "face_crop") for name in CROPPED),
        *((name, "IMAGE", f"paste {name}", "face") for name in CROPPED),
        *((model, "MODEL", name, "model") for name, model in models.items()),
        *((restorer, "VAE", name, "vae") for name, restorer in restorers.items()),
        *(("crop" if name in CROPPED else "image", "IMAGE", name, "image") for name in models),
        *(
            (f"paste {name}" if name in CROPPED else name, "IMAGE", f"caption {name}", "images")
            for row in rows
            for name in row
        ),
        *(link for row in rows for link in in_a_row(row)),
        *((f"with {row[-1]}", "IMAGE", "rows", f"image{n}") for n, row in enumerate(rows, 1)),
        ("rows", "IMAGE", "save", "images"),
    )


COMPARE_METHODS = Workflow(
    "Compare methods",
    "compare_methods",
    (
        note(
            "welcome", (40, 40), (400, 330), "1 · Start here",
            "**One bad picture and one person, by three methods.**\n\n"
            "Above: the bad picture, and the three restorers without the person. Below: the person by "
            "PFStorer and by a LoRA (both on the StableSR-like restorer), by Dual-Pivot Tuning (on DiffBIR), "
            "and steered by photos (on CLR-Face).\n\n"
            "Learn your person with *Learn a person* (method *pfstorer*, then *lora*) and *Learn a person "
            "(Dual-Pivot)*, choose the three adapters, the picture and photos, and press **Run**. The three "
            "that are chosen here are of a drawing, and of no use to the person in the picture.",
        ),
        bad_picture((40, 460)),
        enlarge((40, 900)),
        note("consent", (40, 1060), (400, 170), "Before you use it on people", CONSENT),
        Node("stablesr", "LoadBaseRestorer", (480, 40), (400, 160), "Load Base Restorer: StableSR-like"),
        diffbir("diffbir", (480, 400)),
        restore("base", (480, 760), "StableSR without the person"),
        restore("base_diffbir", (480, 1560), "DiffBIR without the person"),
        *(node for n, name in enumerate(METHODS) for node in _method(n, name)),
        good_photos((40, 1280)),
        Node("faces", "RestorationFindFaces", (920, 2440), (400, 140)),
        Node("crop", "RestorationCropFace", (920, 2660), (400, 200), "Crop Face: as CLR-Face wants it"),
        prior("prior", (40, 1720)),
        Node("guide", "LoadFaceRecognizer", (40, 1940), (400, 80), "A recogniser that steers",
             {"name": GUIDE}),
        Node("guidance", "FaceIdentityGuidance", (920, 2940), (400, 260), widgets={"latent_mask": MASK}),
        refine("clr_face", (480, 2360), "CLR-Face without the person"),
        refine("guided", (1360, 2440), "CLR-Face, steered by photos"),
        *(Node(f"paste {name}", "RestorationPasteFace", (1360, 3260 + 240 * n), (400, 160))
          for n, name in enumerate(CROPPED)),
        *captioned(ABOVE, 1800, 40),
        *captioned(BELOW, 1800, 1320),
        Node("rows", "ImageStitch", (2520, 40), (320, 120), "Above and below",
             {"direction": "down", "spacing_width": 8}),
        Node("save", "SaveImage", (2520, 280), (760, 560), widgets={"filename_prefix": "PFStorer_methods"}),
    ),
    _links(),
)  # fmt: skip
