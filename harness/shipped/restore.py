"""Restore and upscale: the first workflow that anybody opens."""

from __future__ import annotations

from .parts import AT_ITS_BEST, EXAMPLE, Node, Workflow, note

RESTORE_AND_UPSCALE = Workflow(
    "Restore and upscale",
    "restore_and_upscale",
    (
        note(
            "welcome",
            (40, 40),
            (400, 240),
            "1 · Start here",
            "**Restores a bad picture of a face and enlarges it.**\n\n"
            "Choose your picture in *Load Image*, then press **Run**.\n\n"
            "`pfstorer_tiny` comes with the pack so that everything runs at once, also without a graphics "
            "card. It is a small demonstration, trained on drawn faces and the photographs of six people. "
            "For real use get StableSR's weights: the README says which, and where they go.",
        ),
        Node("image", "LoadImage", (40, 340), (400, 420), "Load Image: the bad picture", {"image": EXAMPLE}),
        Node("restorer", "LoadBaseRestorer", (480, 40), (400, 120)),
        Node(
            "sampler",
            "TiledSRSampler",
            (480, 310),
            (400, 480),
            widgets={"upscale": 2.0, **AT_ITS_BEST},
        ),
        note(
            "settings",
            (920, 560),
            (480, 250),
            "2 · The settings that matter",
            "- **upscale**: how many times larger the result is, 1 to 20.\n"
            "- **steps**: 2 for the tiny restorer (more add grain); StableSR wants 20 to 200.\n"
            "- **seed**: every seed invents other details.\n"
            "- **fidelity**: raise it if the result strays from the picture. It needs StableSR's CFW "
            "autoencoder; the tiny restorer has none.\n"
            "- **color_fix**: leave it on *wavelet*.\n\n"
            "Large results are worked on tile by tile, so memory does not run out. Without a graphics card "
            "begin with a picture of at most 200 pixels: the time grows with the area of the result.",
        ),
        Node("save", "SaveImage", (920, 40), (480, 440), widgets={"filename_prefix": "PFStorer"}),
        note(
            "consent",
            (40, 820),
            (400, 150),
            "Before you use it on people",
            "A restored face is a guess at what was there. Restore and share faces only of people who "
            "agree to it, and do not use the result as evidence of who somebody is.",
        ),
    ),
    (
        ("image", "IMAGE", "sampler", "image"),
        ("restorer", "MODEL", "sampler", "model"),
        ("restorer", "VAE", "sampler", "vae"),
        ("sampler", "IMAGE", "save", "images"),
    ),
)
