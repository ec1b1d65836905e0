"""Restore a group: several people in one picture, each by an adapter of their own."""

from __future__ import annotations

from .film import restored
from .parts import (
    GUESS,
    NODE_WIDTH,
    PEOPLE,
    Group,
    Node,
    Shown,
    Template,
    compare,
    consent,
    save,
    welcome,
)

NODES, LINKS = restored(("image", "IMAGE"), others="restore by the base")

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
        *NODES,
        compare(height=280),
        save("group", 280),
    ),
    (
        *LINKS,
        ("large", "IMAGE", "compare", "image_a"),
        ("paste", "IMAGE", "compare", "image_b"),
        ("paste", "IMAGE", "save", "images"),
    ),
    title="4 Restore a group",
    stacks=(
        (Group("1 · Choose a picture", (("welcome", "image", "large", "consent"),)),),
        (Group("2 · Who is who", ((*(f"person {n}" for n in range(1, len(PEOPLE) + 1)), "choose"),)),),
        (Group("3 · Restore each face", (("restorer", "crop", "apply"), ("sampler",))),),
        (Group("4 · Paste, and look", (("paste", "save", "compare"),)),),
    ),
    thumbnail=(Shown("large"), Shown("paste")),
)  # fmt: skip
