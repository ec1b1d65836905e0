"""CLR-Face: a face, cut out and aligned, refined in a VQ latent, and steered by photos."""

from __future__ import annotations

from .parts import (
    FACE,
    GUESS,
    REFINED,
    Group,
    Node,
    Shown,
    Template,
    bad_picture,
    compare,
    consent,
    enlarge,
    face_restorer,
    found,
    good_photos,
    save,
    welcome,
)
from .untrained import guidance, guide

MASK = "pfstorer_tiny_clr_face_predicted.safetensors"
"""Of models/identity_masks: what was learned for it."""

CLR_FACE = Template(
    "restore_with_clr_face",
    (
        welcome(
            "**Cuts a face out, takes the damage off, refines it, and steers it by photos** of the person. "
            "Press **Run**. (*Face Identity Guidance* off, by Ctrl+B: no photos.)\n\n"
            "Own pictures: *Load Image* in place of *Example Pictures*.",
            130,
        ),
        bad_picture(),
        good_photos(),
        face_restorer(),
        *FACE,
        guide(),
        guidance(latent_mask=MASK),
        consent(GUESS, 100),
        Node("sampler", "TiledSRSampler", widgets=REFINED),
        enlarge(),
        Node("paste", "RestorationPasteFace"),
        compare(),
        save("clr_face"),
    ),
    (
        *found("image"),
        ("image", "IMAGE", "large", "image"),
        ("restorer", "MODEL", "guidance", "model"),
        *(("restorer", "VAE", name, "vae") for name in ("guidance", "sampler")),
        ("photos", "IMAGE", "guidance", "photos.photo_0"),
        ("guide", "recognizer", "guidance", "recognizer"),
        ("guidance", "MODEL", "sampler", "model"),
        ("crop", "IMAGE", "sampler", "image"),
        ("sampler", "IMAGE", "paste", "face"),
        ("crop", "face_crop", "paste", "face_crop"),
        ("large", "IMAGE", "paste", "image"),
        ("large", "IMAGE", "compare", "image_a"),
        ("paste", "IMAGE", "compare", "image_b"),
        ("paste", "IMAGE", "save", "images"),
    ),
    title="6 CLR-Face",
    stacks=(
        (Group("1 · A bad picture, and photos", (("welcome", "image", "photos"),)),),
        (Group("2 · Find the face", (("restorer", "faces", "crop", "consent"),)),),
        (Group("3 · Steer and refine", (("guide", "guidance", "paste"), ("sampler", "large"))),),
        (Group("4 · Look", (("save", "compare"),)),),
    ),
    thumbnail=(Shown("large"), Shown("paste")),
)  # fmt: skip
