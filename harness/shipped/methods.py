"""Compare methods: one bad picture and one person, learned three ways."""

from __future__ import annotations

from .diffbir import LEARNED as DUAL_PIVOT
from .diffbir import diffbir
from .parts import (
    FACE,
    GUESS,
    PERSON,
    REFINED,
    Group,
    Links,
    Node,
    Shown,
    Template,
    bad_picture,
    consent,
    face_restorer,
    found,
    loaded_person,
    save,
    welcome,
)

METHODS = {
    "PFStorer": (PERSON, "restorer"),
    "LoRA": (f"{PERSON}_lora", "restorer"),
    "Dual-Pivot": (DUAL_PIVOT, "diffbir"),
}
"""The adapter of each, and on which restorer it was learned."""
RESTORERS = {"restorer": "CLR-Face", "diffbir": "DiffBIR"}
SHEET = 788, 288
"""Width and height of a sheet of two gammas, of faces of 256 pixels."""
STEPS = 4
"""Between what suits the one restorer and the other."""


def _links() -> Links:
    listed = {"models": "MODEL", "vaes": "VAE"}
    return (
        *found("image"),
        *(
            (restorer, output, name, f"inputs.input{n}")
            for name, output in listed.items()
            for n, (_, restorer) in enumerate(METHODS.values())
        ),
        *(
            (f"load {name}", "identity_adapter", "people", f"inputs.input{n}")
            for n, name in enumerate(METHODS)
        ),
        ("models", "list", "sheet", "model"),
        ("vaes", "list", "sheet", "vae"),
        ("people", "list", "sheet", "identity_adapter"),
        ("crop", "IMAGE", "sheet", "image"),
        ("sheet", "sheet", "grid", "images"),
        ("grid", "images", "save", "images"),
    )


COMPARE_METHODS = Template(
    "compare_methods",
    (
        welcome(
            "**One bad picture and one person, by several methods**, each without (gamma 0) and with the "
            "person. *Gamma Sheet* gets lists, and makes a sheet by each. Press **Run**.\n\n"
            "For a person of your own learn them by *Learn a person* (method *pfstorer*, then *lora*) and "
            "*Dual-Pivot*.",
            190,
        ),
        bad_picture(),
        consent(GUESS, 100),
        face_restorer(),
        diffbir("diffbir"),
        *FACE,
        *(loaded_person(f"load {name}", adapter, f"The person by {name}")
          for name, (adapter, _) in METHODS.items()),
        Node("models", "CreateList", "List: models", collapsed=True),
        Node("vaes", "CreateList", "List: VAEs", collapsed=True),
        Node("people", "CreateList", "List: adapters", collapsed=True),
        Node("sheet", "GammaSheet", "Gamma Sheet: by each",
             {"gammas": "0, 1", **REFINED, "steps": STEPS}),
        Node("grid", "ImageGrid", widgets={"columns": 1, "cell_width": SHEET[0], "cell_height": SHEET[1]}),
        save("methods", 420, title="PFStorer, LoRA, Dual-Pivot"),
    ),
    _links(),
    title="8 Compare methods",
    stacks=(
        (Group("1 · A picture, and the face in it", (("welcome", "image", "faces"),)),),
        (Group("2 · Two restorers", (("restorer", "diffbir", "crop"),)),),
        (Group("3 · One person, three ways",
               ((*(f"load {name}" for name in METHODS), "models", "vaes", "people", "consent"),)),),
        (Group("4 · Restore by each", (("sheet",),)),),
        (Group("5 · Look", (("grid", "save"),)),),
    ),
    thumbnail=(
        Shown("crop", face=True),
        *(Shown("sheet", 1, 2 * of + 1, face=True) for of in range(len(METHODS))),
    ),
)  # fmt: skip
