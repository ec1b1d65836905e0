"""Identity without training: photos that are looked at, and a recogniser that steers."""

from __future__ import annotations

from typing import Any

from .parts import (
    GUESS,
    LOOK_WIDTH,
    NODE_WIDTH,
    Group,
    Node,
    Shown,
    Template,
    bad_picture,
    base_restorer,
    consent,
    good_photos,
    save,
    tiled,
    welcome,
)

GUIDE, JUDGE = "dlib_resnet29.safetensors", "pfstorer_iresnet.safetensors"
"""What guides does not judge."""
STEPS = 4
"""In fewer hardly one lies in the window of the guidance."""


def guide() -> Node:
    return Node("guide", "LoadFaceRecognizer", "A recogniser that steers", {"name": GUIDE})


def guidance(**widgets: Any) -> Node:
    """With room for the place of one more photo."""
    return Node("guidance", "FaceIdentityGuidance", widgets=widgets, size=(NODE_WIDTH, 320))


IDENTITY_WITHOUT_TRAINING = Template(
    "identity_without_training",
    (
        welcome(
            "**Restores a bad picture as a person, from photos alone.** The restorer looks at the photos "
            "(*Reference Attention*), and a face recogniser says in which direction the person is (*Face "
            "Identity Guidance*). Press **Run**.\n\nEach can be switched off by Ctrl+B.",
            130,
        ),
        bad_picture(),
        good_photos(),
        base_restorer(),
        Node("references", "ReferenceAttention"),
        guide(),
        guidance(),
        consent(GUESS, 100),
        tiled("sampler", steps=STEPS),
        Node("judge", "LoadFaceRecognizer", "Another one that judges", {"name": JUDGE}),
        Node("report", "LikenessReport", size=(LOOK_WIDTH, 320)),
        save("untrained", 260),
    ),
    (
        ("restorer", "MODEL", "references", "model"),
        ("references", "MODEL", "guidance", "model"),
        ("guidance", "MODEL", "sampler", "model"),
        *(("restorer", "VAE", name, "vae") for name in ("references", "guidance", "sampler")),
        *(("photos", "IMAGE", name, "photos.photo_0") for name in ("references", "guidance", "report")),
        ("guide", "recognizer", "guidance", "recognizer"),
        ("judge", "recognizer", "report", "recognizer"),
        ("guide", "recognizer", "report", "second"),
        ("guidance", "MODEL", "report", "model"),
        ("image", "IMAGE", "sampler", "image"),
        ("image", "IMAGE", "report", "bad"),
        ("sampler", "IMAGE", "report", "result"),
        ("sampler", "IMAGE", "save", "images"),
    ),
    title="7 Identity without training",
    stacks=(
        (Group("1 · A bad picture, and photos", (("welcome", "image", "photos"),)),),
        (Group("2 · Photos guide it",
               (("restorer", "references", "consent"), ("guide", "guidance", "judge"))),),
        (Group("3 · Restore", (("sampler",),)),),
        (Group("4 · Look, and judge", (("save", "report"),)),),
    ),
    thumbnail=(Shown("image"), Shown("sampler")),
)  # fmt: skip
