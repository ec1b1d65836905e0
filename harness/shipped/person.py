"""Learn a person, and restore a person."""

from __future__ import annotations

from .parts import (
    BIOMETRIC,
    FACE,
    GUESS,
    LOOK_WIDTH,
    PERSON,
    REFINED,
    App,
    Group,
    Links,
    Node,
    Shown,
    Template,
    bad_picture,
    compare,
    consent,
    face_restorer,
    found,
    good_photos,
    loaded_person,
    save,
    welcome,
)

NAME = "my_person"
"""What the one workflow learns."""
STEPS = 60
"""Enough to see it learn, in minutes of a CPU; the paper takes 500."""
LEARNING: Links = (
    ("restorer", "MODEL", "train", "model"),
    ("restorer", "CLIP", "train", "clip"),
    ("restorer", "VAE", "train", "vae"),
    ("photos", "IMAGE", "train", "photos.photo_0"),
)
"""Of every workflow that learns a person."""

LEARN_A_PERSON = Template(
    "learn_a_person",
    (
        welcome(
            "**Learns a person from a few good photos, once.** Press **Run**: the file in "
            "`models/identity_adapters` is for *Restore a person*.\n\n"
            "For a person of your own put *Load Image* nodes (3 to 5 photos) in place of *Example Pictures*.",
            180,
        ),
        good_photos(),
        face_restorer(),
        consent(f"{BIOMETRIC}\n\n200 *steps* bring more; with published weights take 500.", 160),
        Node("train", "TrainIdentityAdapter", widgets={"name": NAME, "steps": STEPS, "seed": 0}),
        Node("preview", "SaveImage", "Damaged, base, learned so far, photo",
             {"filename_prefix": "PFStorer_learned"}, (LOOK_WIDTH, 260)),
        Node("loss", "LossGraphNode", size=(LOOK_WIDTH, 300)),
    ),
    (
        *LEARNING,
        ("train", "loss", "loss", "loss"),
        ("train", "preview", "preview", "images"),
    ),
    title="2 Learn a person",
    stacks=(
        (Group("1 · Photos of one person", (("welcome", "photos"),)),),
        (Group("2 · Learn", (("restorer", "consent"), ("train",))),),
        (Group("3 · Look", (("preview", "loss"),)),),
    ),
    thumbnail=tuple(Shown("photos", number=number) for number in range(4)),
)  # fmt: skip

GAMMAS = "0, 0.5, 1"
RESTORE_A_PERSON = Template(
    "restore_a_person",
    (
        welcome(
            "**Restores a bad picture of a person as that person.** Press **Run**; *gamma* is how much "
            "of the person is in it.\n\nFor a person of your own: *Learn a person*, then choose them here, "
            "and a *Load Image* in place of *Example Pictures*.",
            180,
        ),
        bad_picture(),
        face_restorer(),
        loaded_person("person", PERSON, "Load Identity Adapter: who it is"),
        consent(GUESS, 100),
        *FACE,
        Node("sheet", "GammaSheet", widgets={"gammas": GAMMAS, **REFINED}),
        compare("each gamma"),
        save("person", 220),
    ),
    (
        ("restorer", "MODEL", "sheet", "model"),
        ("restorer", "VAE", "sheet", "vae"),
        ("person", "identity_adapter", "sheet", "identity_adapter"),
        *found("image"),
        ("crop", "IMAGE", "sheet", "image"),
        ("crop", "IMAGE", "compare", "image_a"),
        ("sheet", "pictures", "compare", "image_b"),
        ("sheet", "sheet", "save", "images"),
    ),
    title="3 Restore a person",
    stacks=(
        (Group("1 · Choose a picture", (("welcome", "image"),)),),
        (Group("2 · Who it is", (("restorer", "person", "consent"),)),),
        (Group("3 · Restore the face", (("faces", "crop"), ("sheet",))),),
        (Group("4 · Look", (("save", "compare"),)),),
    ),
    thumbnail=(Shown("crop", face=True), Shown("sheet", 1, 2, face=True)),
    app=App(
        (
            ("person", "name", "Who it is"),
            ("sheet", "gammas", "How much of them, from 0 to 1"),
        ),
        ("save",),
    ),
)  # fmt: skip
