"""Restore with CLR-Face: a face, cut out and aligned, refined in a VQ latent, and steered by photos."""

from __future__ import annotations

from dataclasses import replace

from .captions import captioned, in_a_row
from .diffbir import enlarge, restore
from .parts import CONSENT, Links, Node, Workflow, bad_picture, good_photos, note
from .untrained import GUIDE

PRIOR = "pfstorer_tiny_clr_face.safetensors"
"""Comes with the pack: first stage, IRN and prior for aligned faces of 256 pixels."""
MASK = "pfstorer_tiny_clr_face_predicted.safetensors"
"""Of models/identity_masks: what was learned for it."""
SAMPLING = {"upscale": 1.0, "steps": 10}
ROW = (("large", "bad picture"), ("paste refined", "CLR-Face"), ("paste guided", "photos steer"))
MODELS = {"refined": "restorer", "guided": "guidance"}


def prior(name: str, pos: tuple[int, int]) -> Node:
    return Node(
        name, "LoadBaseRestorer", pos, (400, 160), "Load Base Restorer: CLR-Face", {"checkpoint": PRIOR}
    )


def refine(name: str, pos: tuple[int, int], title: str) -> Node:
    node = restore(name, pos, title)
    return replace(node, widgets={**node.widgets, **SAMPLING})


def _branch(n: int, name: str, title: str) -> tuple[Node, ...]:
    return (
        refine(name, (920, 40 + 800 * n), title),
        Node(f"paste {name}", "RestorationPasteFace", (1360, 40 + 800 * n), (300, 160)),
    )


def _links() -> Links:
    return (
        *(("image", "IMAGE", name, "image") for name in ("large", "faces", "crop")),
        ("faces", "bboxes", "crop", "bboxes"),
        *(("restorer", "MODEL", name, "model") for name in ("crop", "guidance")),
        *(("restorer", "VAE", name, "vae") for name in ("guidance", *MODELS)),
        ("photos", "IMAGE", "guidance", "photos.photo_0"),
        ("guide", "recognizer", "guidance", "recognizer"),
        *((model, "MODEL", name, "model") for name, model in MODELS.items()),
        *(("crop", "IMAGE", name, "image") for name in MODELS),
        *((name, "IMAGE", f"paste {name}", "face") for name in MODELS),
        *(("crop", "face_crop", f"paste {name}", "face_crop") for name in MODELS),
        *(("large", "IMAGE", f"paste {name}", "image") for name in MODELS),
        *((name, "IMAGE", f"caption {name}", "images") for name, _ in ROW),
        *in_a_row([name for name, _ in ROW]),
        (f"with {ROW[-1][0]}", "IMAGE", "save", "images"),
    )


RESTORE_WITH_CLR_FACE = Workflow(
    "Restore with CLR-Face",
    "restore_with_clr_face",
    (
        note(
            "welcome", (40, 40), (400, 300), "1 · Start here",
            "**Restores a face by a reading of CLR-Face**: one network takes the damage out, then a "
            "diffusion model refines what it left, in the latents of a VQ autoencoder. Photos of the person "
            "steer it, through a face recogniser and a learned mask.\n\n"
            "Press **Run**. The result shows the bad picture, the refined face, and the one that photos "
            "steer. For a picture of your own put *Load Image* in place of *Example Pictures*.",
        ),
        bad_picture((40, 400)),
        good_photos((40, 840)),
        enlarge((40, 1280)),
        prior("restorer", (480, 40)),
        Node("faces", "RestorationFindFaces", (480, 340), (400, 140)),
        Node("crop", "RestorationCropFace", (480, 560), (400, 200), "Crop Face: as the model wants it"),
        Node("guide", "LoadFaceRecognizer", (480, 840), (400, 80), "A recogniser that steers",
             {"name": GUIDE}),
        Node("guidance", "FaceIdentityGuidance", (480, 1000), (400, 260), widgets={"latent_mask": MASK}),
        note(
            "files", (480, 1400), (400, 300), "2 · Other weights",
            f"`{PRIOR.removesuffix('.safetensors')}` comes with the pack. It is small, and knows few faces: "
            "what it draws is a likely face, and often a stranger's.\n\n"
            "ReF-LDM's `refldm.ckpt` with its `vqgan.ckpt` is a network of this kind at 512 pixels, for "
            "non-commercial research; masks are of one restorer, so choose *none* or *landmarks* with it. "
            "`train-prior` makes others.",
        ),
        *_branch(0, "refined", "Refined"),
        *_branch(1, "guided", "Refined, and steered"),
        *captioned(ROW, 1700, 40),
        Node("save", "SaveImage", (2420, 40), (760, 400), widgets={"filename_prefix": "PFStorer_clr_face"}),
        note("consent", (40, 1440), (400, 170), "Before you use it on people", CONSENT),
    ),
    _links(),
)  # fmt: skip
