"""DiffBIR: restore with it, learn a person on it in two pivots, and edit while it restores."""

from __future__ import annotations

from pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining

from .captions import captioned, in_a_row
from .parts import (
    BIOMETRIC,
    EXAMPLE,
    PERSON,
    Group,
    Links,
    Node,
    Shown,
    Template,
    Workflow,
    bad_picture,
    base_restorer,
    compare,
    consent,
    enlarge,
    good_photos,
    loaded_person,
    save,
    tiled,
    welcome,
)
from .person import LEARNING

CONTROL = "pfstorer_tiny_diffbir.safetensors"
"""DiffBIR's control network and cleaner for the embedded restorer; comes with the pack."""
NAME = "my_person_dual_pivot"
LEARNED = f"{PERSON}_dual_pivot"
"""An adapter that comes with the pack."""
CLASS_WORD = "person"
PROMPT = DualPivotTraining(class_word=CLASS_WORD).prompt
STEPS = {"text_steps": 60, "model_steps": 40, "class_pictures": 4}
"""For minutes of a CPU."""


def diffbir(name: str, title: str = "Load Base Restorer: DiffBIR") -> Node:
    return base_restorer(name, title, widgets={"restorer_weights": CONTROL})


RESTORED = (("large", "bad picture"), ("restored", "DiffBIR"), ("guided", "restoration guidance"))

RESTORE_WITH_DIFFBIR = Workflow(
    "restore_with_diffbir",
    (
        bad_picture(),
        enlarge(),
        diffbir("restorer"),
        Node("guidance", "RestorationGuidance", widgets={"scale": 0.05}),
        tiled("restored", "DiffBIR"),
        tiled("guided", "DiffBIR, guided"),
        *captioned(RESTORED),
        save("diffbir"),
    ),
    (
        ("image", "IMAGE", "large", "image"),
        ("restorer", "MODEL", "restored", "model"),
        ("restorer", "MODEL", "guidance", "model"),
        ("guidance", "MODEL", "guided", "model"),
        *(("restorer", "VAE", name, "vae") for name in ("restored", "guided")),
        *(("image", "IMAGE", name, "image") for name in ("restored", "guided")),
        *((name, "IMAGE", f"caption {name}", "images") for name, _ in RESTORED),
        *in_a_row([name for name, _ in RESTORED]),
        ("with guided", "IMAGE", "save", "images"),
    ),
)

DUAL_PIVOT = Template(
    "learn_a_person_dual_pivot",
    (
        welcome(
            "**Learns a person for DiffBIR, and restores them.** Stable Diffusion learns them under a word, "
            "then the control network learns to guide it. Press **Run**.\n\n"
            "For a person of your own put *Load Image* nodes in place of *Example Pictures*.",
            130,
        ),
        good_photos(),
        bad_picture(),
        diffbir("restorer"),
        consent(
            f"{BIOMETRIC}\n\nFor real use: DiffBIR's weights, **text_steps 2500**, **model_steps 800**, "
            "**200 class_pictures**.",
            190,
        ),
        Node("train", "TrainDualPivot",
             widgets={"name": NAME, "class_word": CLASS_WORD, "seed": 0, **STEPS}),
        Node("apply", "ApplyPersonalization"),
        tiled("sampler"),
        compare(),
        save("dual_pivot"),
    ),
    (
        *LEARNING,
        ("restorer", "MODEL", "apply", "model"),
        ("train", "identity_adapter", "apply", "identity_adapter"),
        ("apply", "MODEL", "sampler", "model"),
        ("restorer", "VAE", "sampler", "vae"),
        ("image", "IMAGE", "sampler", "image"),
        ("image", "IMAGE", "compare", "image_a"),
        ("sampler", "IMAGE", "compare", "image_b"),
        ("sampler", "IMAGE", "save", "images"),
    ),
    title="5 Dual-Pivot",
    stacks=(
        (Group("1 · Photos, and a bad picture", (("welcome", "photos", "image"),)),),
        (Group("2 · Learn, and apply", (("restorer", "consent", "apply"), ("train",))),),
        (Group("3 · Restore", (("sampler",),)),),
        (Group("4 · Look", (("save", "compare"),)),),
    ),
    thumbnail=(Shown("image"), Shown("sampler")),
)  # fmt: skip

EDITED = (("large", "bad picture"), ("base", "base"), ("person", "the person"), ("edited", "smiling"))


def _edited_links() -> Links:
    models = {"base": "restorer", "person": "apply", "edited": "apply"}
    return (
        ("image", "IMAGE", "large", "image"),
        ("restorer", "MODEL", "apply", "model"),
        ("learned", "identity_adapter", "apply", "identity_adapter"),
        ("restorer", "CLIP", "prompt", "clip"),
        ("prompt", "CONDITIONING", "edited", "positive"),
        *((source, "MODEL", name, "model") for name, source in models.items()),
        *(("restorer", "VAE", name, "vae") for name in models),
        *(("image", "IMAGE", name, "image") for name in models),
        *((name, "IMAGE", f"caption {name}", "images") for name, _ in EDITED),
        *in_a_row([name for name, _ in EDITED]),
        ("with edited", "IMAGE", "save", "images"),
    )


RESTORE_AND_EDIT = Workflow(
    "restore_and_edit_a_person",
    (
        Node("image", "LoadImage", "Load Image: the bad picture", {"image": EXAMPLE}),
        enlarge(),
        diffbir("restorer"),
        loaded_person("learned", LEARNED),
        Node("apply", "ApplyPersonalization"),
        Node("prompt", "CLIPTextEncode", "The person, and what they do", {"text": f"{PROMPT}, smiling"}),
        tiled("base", "The base"),
        tiled("person", "The person: the prompt is theirs"),
        tiled("edited", "The person, edited"),
        *captioned(EDITED),
        save("edited"),
    ),
    _edited_links(),
)
