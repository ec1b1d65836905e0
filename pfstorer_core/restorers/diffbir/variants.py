"""DiffBIR's published weights: tensors do not tell them apart, their file names do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ...checkpoints.header import RestorerHeader
from ...checkpoints.words import plain
from ...diffusion.guidance import PromptGuidance
from ..registry import UnknownVariant

DIFFBIR = RestorerHeader(architecture="diffbir", condition="control", start="noise")

VARIANTS = {
    # v1 was trained on the empty prompt alone. Its face model is one for aligned faces of 512 pixels: given
    # larger ones, it draws the same face whatever it sees (DiffBIR's inference only enlarges).
    "v1_face": replace(DIFFBIR, variant="v1_face", size_rule="fixed", aligned="FFHQ", control_prompt="empty"),
    "v1_general": replace(DIFFBIR, variant="v1_general", control_prompt="empty"),
    "v2": replace(DIFFBIR, variant="v2"),
    "v2.1": replace(DIFFBIR, variant="v2.1", prediction_type="v", rescale_betas_zero_snr=True),
}
"""Headers by the names that DiffBIR gives to its generations."""

GUIDANCE = {
    "v2": PromptGuidance(
        negative_prompt="low quality, blurry, low-resolution, noisy, unsharp, weird textures", cfg=4.0
    ),
    "v2.1": PromptGuidance(
        prompt="Cinematic, High Contrast, highly detailed, taken using a Canon EOS R camera, hyper detailed "
        "photo - realistic maximum detail, 32k, Color Grading, ultra HD, extreme meticulous detailing, skin "
        "pore detailing, hyper sharpness, perfect without deformations.",
        negative_prompt="painting, oil painting, illustration, drawing, art, sketch, oil painting, cartoon, "
        "CG Style, 3D render, unreal engine, blurring, dirty, messy, worst quality, low quality, frames, "
        "watermark, signature, jpeg artifacts, deformed, lowres, over-smooth.",
        cfg=6.0,
        rescale=True,
    ),
}
"""What DiffBIR's inference says to each generation; to v1 nothing."""

NAMES = {
    r"v2[._-]?1(?![0-9])": "v2.1",
    r"(?<![a-z0-9])v2(?![0-9])": "v2",
    r"face": "v1_face",
    r"general": "v1_general",
}
"""What the names of published files have in them; the first that is found counts. A Dual-Pivot result of the
release is called face_full_v1.ckpt again."""


def published(name: str, tensors: Mapping[str, Tensor], variant: str | None) -> RestorerHeader:
    """The header of a published file; `variant` overrides what its name says. Its tensors say nothing.

    Raises:
        UnknownVariant: neither tells what it is.
    """
    if variant is None:
        variant = next((kind for part, kind in NAMES.items() if re.search(part, name.lower())), None)
    if variant is None:
        raise UnknownVariant(
            f"{plain(name)} is of DiffBIR, but its name does not say which: choose the variant "
            f"({', '.join(VARIANTS)}), or give the file the name that it was published under."
        )
    return VARIANTS[variant]
