"""Restore a group: several people in one picture, each by an adapter of their own."""

from __future__ import annotations

from .parts import (
    GUESS,
    NODE_WIDTH,
    PEOPLE,
    REFINED,
    THRESHOLD,
    Group,
    Node,
    Shown,
    Template,
    aligned,
    compare,
    consent,
    enlarge,
    face_restorer,
    loaded_person,
    save,
    welcome,
)

RESTORE_A_GROUP = Template(
    "restore_a_group",
    (
        welcome(
            "**Restores the people in one picture, each as themselves.** Press **Run**.\n\n"
            "*Choose Identity* finds the faces and whose they are. What is outside of them stays as it is."
        ),
        Node("image", "ExamplePictures", "Example Pictures: the group",
             {"example": "group: bad picture"}, (NODE_WIDTH, 260)),
        consent(GUESS, 100),
        face_restorer(),
        *(loaded_person(f"person {n}", name, f"Person {n + 1}") for n, name in enumerate(PEOPLE)),
        Node("choose", "ChooseIdentity", size=(400, 0),  # long names
             widgets={"threshold": THRESHOLD, "others": "restore by the base"}),
        aligned(),
        Node("apply", "ApplyPersonalization"),
        Node("sampler", "TiledSRSampler", "Tiled SR Sampler: face by face", REFINED),
        enlarge("lanczos"),
        Node("paste", "RestorationPasteFace"),
        compare("Before | after"),
        save("group", 280),
    ),
    (
        ("image", "IMAGE", "large", "image"),
        ("image", "IMAGE", "choose", "image"),
        *((f"person {n}", "identity_adapter", "choose", f"identity_adapters.identity_adapter_{n}")
          for n in range(len(PEOPLE))),
        ("image", "IMAGE", "crop", "image"),
        ("choose", "bboxes", "crop", "bboxes"),
        ("restorer", "MODEL", "crop", "model"),
        ("restorer", "MODEL", "apply", "model"),
        ("choose", "identity_adapter", "apply", "identity_adapter"),
        ("apply", "MODEL", "sampler", "model"),
        ("restorer", "VAE", "sampler", "vae"),
        ("crop", "IMAGE", "sampler", "image"),
        ("large", "IMAGE", "paste", "image"),
        ("sampler", "IMAGE", "paste", "face"),
        ("crop", "face_crop", "paste", "face_crop"),
        ("large", "IMAGE", "compare", "image_a"),
        ("paste", "IMAGE", "compare", "image_b"),
        ("paste", "IMAGE", "save", "images"),
    ),
    title="4 Restore a group",
    stacks=(
        (Group("1 · Choose a picture", (("welcome", "image", "large", "consent"),)),),
        (Group("2 · Who is who", ((*(f"person {n}" for n in range(len(PEOPLE))), "choose"),)),),
        (Group("3 · Restore each face", (("restorer", "crop", "apply"), ("sampler", "paste"))),),
        (Group("4 · Look", (("save", "compare"),)),),
    ),
    thumbnail=(Shown("large"), Shown("paste")),
)  # fmt: skip
