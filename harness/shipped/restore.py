"""Restore a real photograph: the first template that anybody opens; and the same for the API."""

from __future__ import annotations

from .parts import (
    EXAMPLE,
    GUESS,
    NODE_WIDTH,
    App,
    Group,
    Links,
    Node,
    Shown,
    Template,
    Workflow,
    bad_picture,
    base_restorer,
    compare,
    consent,
    note,
    save,
    tiled,
    welcome,
)

STABLESR = "https://huggingface.co/Iceclear/StableSR/resolve/main/"
WEIGHTS = {
    "stablesr_000117.ckpt": "restorers",
    "stablesr_turbo.ckpt": "restorers",
    "stablesr_768v_000139.ckpt": "restorers",
    "webui_768v_139.ckpt": "stablesr",
    "vqgan_cfw_00011.ckpt": "vae",
}
"""StableSR's public files, and the folders of models/ that they go into."""
HINTS = [{"name": name, "url": f"{STABLESR}{name}", "directory": folder} for name, folder in WEIGHTS.items()]
"""ComfyUI offers such a file for download where a workflow names it and it is not there."""
LINKS: Links = (
    ("image", "IMAGE", "sampler", "image"),
    ("restorer", "MODEL", "sampler", "model"),
    ("restorer", "VAE", "sampler", "vae"),
    ("sampler", "IMAGE", "save", "images"),
)

RESTORE_AND_UPSCALE = Workflow(
    "restore_and_upscale",
    (
        Node("image", "LoadImage", "Load Image: the bad picture", {"image": EXAMPLE}),
        Node("restorer", "LoadBaseRestorer"),
        tiled("sampler"),
        Node("save", "SaveImage", widgets={"filename_prefix": "PFStorer"}),
    ),
    LINKS,
)

RESTORE_A_PHOTOGRAPH = Template(
    "restore_a_real_photograph",
    (
        welcome(
            "**Restores a bad picture of a face, and enlarges it.** Press **Run**.\n\n"
            "For a picture of your own put *Load Image* in place of *Example Pictures*."
        ),
        bad_picture(),
        base_restorer(properties={"models": HINTS}),
        note(
            "weights", "For real photographs",
            "What comes with the pack is small, for a first look. Download StableSR's "
            f"[stablesr_000117.ckpt]({STABLESR}stablesr_000117.ckpt) (non-commercial) into "
            "`models/restorers`, choose it as *checkpoint*, and take 20 to 200 *steps*.",
            (NODE_WIDTH, 170),
        ),
        consent(GUESS, 100),
        tiled("sampler"),
        compare(),
        save("photograph"),
    ),
    (
        *LINKS,
        ("image", "IMAGE", "compare", "image_a"),
        ("sampler", "IMAGE", "compare", "image_b"),
    ),
    title="1 Restore a real photograph",
    stacks=(
        (Group("1 · Choose a picture", (("welcome", "image"),)),),
        (Group("2 · Restore", (("restorer", "weights", "consent"), ("sampler",))),),
        (Group("3 · Look", (("save", "compare"),)),),
    ),
    thumbnail=(Shown("image"), Shown("sampler")),
    app=App(
        (("sampler", "upscale", "Enlarge by"), ("sampler", "seed", "Seed: another, another result")),
        ("save",),
    ),
)  # fmt: skip
