"""DiffBIR: restore with it, learn a person on it in two pivots, and edit while it restores."""

from __future__ import annotations

from pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining

from .captions import captioned, in_a_row
from .parts import AT_ITS_BEST, CONSENT, EXAMPLE, Links, Node, Workflow, bad_picture, note
from .person import DRAWN_PERSON, LEARNING, PHOTOS, learning_shown

CONTROL = "pfstorer_tiny_diffbir.safetensors"
"""DiffBIR's control network and cleaner for the embedded restorer; comes with the pack."""
PERSON = "my_person_dual_pivot"
LEARNED = f"{DRAWN_PERSON}_dual_pivot"
"""An adapter that comes with the pack: of a person who was drawn."""
CLASS_WORD = "person"
PROMPT = DualPivotTraining(class_word=CLASS_WORD).prompt
UPSCALE = 2.0


def diffbir(name: str, pos: tuple[int, int], title: str = "Load Base Restorer: DiffBIR") -> Node:
    return Node(name, "LoadBaseRestorer", pos, (400, 160), title, {"restorer_weights": CONTROL})


def restore(name: str, pos: tuple[int, int], title: str) -> Node:
    return Node(name, "TiledSRSampler", pos, (400, 520), title, {"upscale": UPSCALE, **AT_ITS_BEST})


def enlarge(pos: tuple[int, int]) -> Node:
    widgets = {"upscale_method": "bicubic", "scale_by": UPSCALE}
    return Node("large", "ImageScaleBy", pos, (400, 100), "Enlarge", widgets)


RESTORED = (("large", "bad picture"), ("restored", "DiffBIR"), ("guided", "restoration guidance"))

RESTORE_WITH_DIFFBIR = Workflow(
    "Restore with DiffBIR",
    "restore_with_diffbir",
    (
        note(
            "welcome", (40, 40), (400, 300), "1 · Start here",
            "**Restores a bad picture by DiffBIR**: a cleaner takes the damage out, then a control network "
            "guides Stable Diffusion by what is left.\n\n"
            "Press **Run**, or put *Load Image* with your picture in place of *Example Pictures* first. The "
            "result shows, from left to right: the bad picture, the restored one, and one that *Restoration "
            "Guidance* keeps closer to the bad one.\n\n"
            f"`{CONTROL.removesuffix('.safetensors')}` comes with the pack and is small, so that everything "
            "runs at once. For real photographs get DiffBIR's weights.",
        ),
        bad_picture((40, 400)),
        enlarge((40, 880)),
        diffbir("restorer", (480, 40)),
        note(
            "files", (480, 400), (400, 380), "2 · DiffBIR's own weights",
            "- `face_full_v1.ckpt` holds everything: choose it as *checkpoint*, *restorer_weights* none.\n"
            "- `v1_face.pth`, `v1_general.pth`, `v2.pth` and `DiffBIR_v2.1.pt` are *restorer_weights*, with "
            "Stable Diffusion 2.1 as *checkpoint*. They have no cleaner: connect *Load Upscale Model* to "
            "the sampler's *cleaner*.\n"
            "- Faces (`face_full_v1`, `v1_face`) are restored at 512 pixels and are best cut out and "
            "aligned: *Crop Face*, *Paste Face*.\n"
            "- Take 50 steps; v2 wants a cfg of 4 and v2.1 of 6, with prompts (*Restore with prompts*).\n\n"
            "The README says where they are, and which are non-commercial.",
        ),
        Node("guidance", "RestorationGuidance", (480, 850), (400, 240), widgets={"scale": 0.05}),
        restore("restored", (920, 40), "DiffBIR"),
        restore("guided", (920, 840), "DiffBIR, guided"),
        *captioned(RESTORED, 1360, 40),
        Node("save", "SaveImage", (2080, 40), (760, 400), widgets={"filename_prefix": "PFStorer_diffbir"}),
        note("consent", (40, 1040), (400, 170), "Before you use it on people", CONSENT),
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
)  # fmt: skip

LEARN_DUAL_PIVOT = Workflow(
    "Learn a person (Dual-Pivot)",
    "learn_a_person_dual_pivot",
    (
        note(
            "welcome", (40, 40), (400, 260), "1 · Start here",
            "**Learns a person for DiffBIR from a few good photos, once.** First Stable Diffusion learns "
            "them under a word, then the control network learns to guide it.\n\n"
            "Choose 3 to 5 photos of one person (add *Load Image* nodes for more), give them a name, say "
            "whether it is a man, a woman, … in *class_word*, and press **Run**.\n\n"
            "What is learned is a file in `models/identity_adapters`, which *Load Identity Adapter* finds.",
        ),
        *PHOTOS,
        diffbir("restorer", (480, 40)),
        Node("train", "TrainDualPivot", (480, 400), (400, 560),
             widgets={"name": PERSON, "class_word": CLASS_WORD, "text_steps": 200, "model_steps": 100,
                      "class_pictures": 8, "seed": 0}),
        note(
            "settings", (480, 1360), (400, 240), "2 · While it runs",
            "The base draws pictures of the class first: once, all people share them. Then the node says "
            "which pivot it is at and the time that is left.\n\n"
            "Steps and class pictures here suit the small restorer that comes with the pack. The paper "
            "takes **text_steps 2500**, **model_steps 800** and **200 class_pictures** for DiffBIR's "
            "weights, on a graphics card.",
        ),
        *learning_shown("PFStorer_learned_dual_pivot"),
    ),
    LEARNING,
    picture="learn_a_person",
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
    "Restore and edit a person",
    "restore_and_edit_a_person",
    (
        note(
            "welcome", (40, 40), (400, 300), "1 · Start here",
            "**Restores a bad picture as a person, and as a prompt says.**\n\n"
            "Learn the person with *Learn a person (Dual-Pivot)*, choose them and the picture, and press "
            f"**Run**. The person's own prompt is “{PROMPT}” (token and class word of the "
            "training); what you write behind it edits: smiling, eyes closed, older.\n\n"
            "The restorer that comes with the pack hardly reads words, so that you see no smile with it. "
            "Take DiffBIR's weights to edit.",
        ),
        Node("image", "LoadImage", (40, 400), (400, 420), "Load Image: the bad picture", {"image": EXAMPLE}),
        enlarge((40, 880)),
        diffbir("restorer", (480, 40)),
        Node("learned", "LoadIdentityAdapter", (480, 400), (400, 80),
             widgets={"name": f"{LEARNED}.safetensors"}),
        Node("apply", "ApplyPersonalization", (480, 550), (400, 160)),
        Node("prompt", "CLIPTextEncode", (480, 860), (400, 140), "The person, and what they do",
             {"text": f"{PROMPT}, smiling"}),
        note("consent", (480, 1070), (400, 170), "Before you use it on people", CONSENT),
        restore("base", (920, 40), "The base"),
        restore("person", (920, 840), "The person: the prompt is theirs"),
        restore("edited", (920, 1640), "The person, edited"),
        *captioned(EDITED, 1360, 40),
        Node("save", "SaveImage", (2080, 40), (900, 340), widgets={"filename_prefix": "PFStorer_edited"}),
    ),
    _edited_links(),
)  # fmt: skip
