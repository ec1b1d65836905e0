"""Where guidances act: masks over the pictures, which become conditions that lie on the latent."""

from __future__ import annotations

from typing import Any

import comfy.conds
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .placement import FRAME, WHOLE, Placement

PATCH = "pfstorer_guidance_masks"
"""The host keeps the masks of a MODEL in a list of this name."""
ON_LATENT = "guidance_mask_"
"""Conditions: mask k [B, 1, h, w] in [0, 1]."""


class GuidanceMask:
    """A mask [B or 1, 1, H, W] in [0, 1] over the pictures, of any size."""

    def __init__(self, area: Tensor) -> None:
        self.area = area

    def condition_of(self, patcher: ModelPatcher) -> str:
        """The key of its condition in a MODEL that has it."""
        return f"{ON_LATENT}{masks_of(patcher).index(self)}"


def with_mask(model: ModelPatcher, mask: GuidanceMask) -> None:
    """Give a MODEL, a clone of the caller's, one more mask."""
    model.set_model_patch(mask, PATCH)


def masks_of(patcher: ModelPatcher | None) -> list[GuidanceMask]:
    return patcher.model_options["transformer_options"].get("patches", {}).get(PATCH, []) if patcher else []


def mask_conds(
    patcher: ModelPatcher | None, noise: Tensor, values: dict[str, Any], placement: Placement
) -> dict[str, Any]:
    """The masks of a MODEL on the latent, for areas to crop."""
    frame = values.get(FRAME, WHOLE)
    placed = [placement.of(mask.area, "area", frame).to(noise) for mask in masks_of(patcher)]
    return {f"{ON_LATENT}{k}": comfy.conds.CONDNoiseShape(mask) for k, mask in enumerate(placed)}
