"""Restore a film: in each frame its people, each as themselves; the sound stays."""

from __future__ import annotations

from .parts import (
    PEOPLE,
    REFINED,
    THRESHOLD,
    Links,
    Node,
    Workflow,
    aligned,
    enlarge,
    face_restorer,
    loaded_person,
)

FILM = "film.mp4"
LEAVE = "leave as they are"
CHOOSER = 340, 320
"""Long names, and a line for each face."""


def restored(
    images: tuple[str, str], others: str = LEAVE, **sampling: object
) -> tuple[tuple[Node, ...], Links]:
    """Nodes and links that restore the faces in the pictures of (node, output); they come from `paste`.

    `others` is what becomes of faces that are nobody's.
    """
    people = [f"person {n}" for n in range(1, len(PEOPLE) + 1)]
    nodes = (
        face_restorer(),
        *(loaded_person(person, name, person.capitalize())
          for person, name in zip(people, PEOPLE, strict=True)),
        Node("choose", "ChooseIdentity", widgets={"threshold": THRESHOLD, "others": others}, size=CHOOSER),
        aligned(),
        Node("apply", "ApplyPersonalization"),
        Node("sampler", "TiledSRSampler", "Tiled SR Sampler: face by face", {**REFINED, **sampling}),
        enlarge("lanczos"),
        Node("paste", "RestorationPasteFace"),
    )  # fmt: skip
    links = (
        (*images, "choose", "image"),
        (*images, "large", "image"),
        *((person, "identity_adapter", "choose", f"identity_adapters.identity_adapter_{n}")
          for n, person in enumerate(people)),
        ("choose", "images", "crop", "image"),
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
    )  # fmt: skip
    return nodes, links


NODES, LINKS = restored(("parts", "images"), fixed_noise=True)

RESTORE_A_FILM = Workflow(
    "restore_a_film",
    (
        Node("film", "LoadVideo", widgets={"file": FILM}),
        Node("parts", "GetVideoComponents"),
        *NODES,
        Node("made", "CreateVideo"),
        Node("save", "SaveVideo", widgets={"filename_prefix": "PFStorer_film"}),
    ),
    (
        ("film", "VIDEO", "parts", "video"),
        *LINKS,
        ("paste", "IMAGE", "made", "images"),
        ("parts", "audio", "made", "audio"),
        ("parts", "fps", "made", "fps"),
        ("parts", "bit_depth", "made", "bit_depth"),
        ("made", "VIDEO", "save", "video"),
    ),
)
