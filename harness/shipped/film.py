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


def restored(images: tuple[str, str], **sampling: object) -> tuple[tuple[Node, ...], Links]:
    """Nodes and links that restore the faces in the pictures of (node, output); they come from `paste`."""
    people = [f"person {n}" for n in range(len(PEOPLE))]
    nodes = (
        face_restorer(),
        *(loaded_person(person, name) for person, name in zip(people, PEOPLE, strict=True)),
        Node("choose", "ChooseIdentity", widgets={"threshold": THRESHOLD}),
        aligned(),
        Node("apply", "ApplyPersonalization"),
        Node("sampler", "TiledSRSampler", widgets={**REFINED, **sampling}),
        enlarge("lanczos"),
        Node("paste", "RestorationPasteFace"),
    )
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
