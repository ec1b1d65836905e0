"""Identities in a MODEL: what ApplyPersonalization adds to it, and what the model does with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.conds
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from comfy_api.latest import io
from torch import Tensor

from ...pfstorer_core.models import UNet
from ...pfstorer_core.personalization.pfstorer.apply import (
    Identity,
    References,
    each_in_its_area,
    named,
    of_one_length,
    personalization,
)
from .placement import Placement

PATCH = "pfstorer_identity"
"""The host keeps what a clone of a MODEL was given in lists of this name."""
AREA, NAMED = "identity_area_", "identity_named"
"""Conditions: where identity k acts, and the rows whose prompt nobody wrote."""
NULL_PROMPT = "pfstorer_null_prompt"
"""In a conditioning's values: it was made from the empty prompt."""

IdentityAdapterType = io.Custom("IDENTITY_ADAPTER")


@dataclass(eq=False)
class IdentityPatch:
    """An identity from noise level `start` down to `end`. Its area [B or 1, 1, H, W], of as many pictures, is
    on the CPU."""

    identity: Identity
    start: float
    end: float
    _placed: dict[Any, tuple[Identity, References]] = field(default_factory=dict)

    def acts(self, sigma: float) -> bool:
        return self.end <= sigma <= self.start

    def at(
        self, unet: UNet, key: Any, device: torch.device, dtype: torch.dtype
    ) -> tuple[Identity, References]:
        """The identity where the model is; its references are read once for each state of the weights."""
        key = (key, device, dtype)
        if key not in self._placed:
            adapter = self.identity.adapter.to(device, dtype)
            self._placed = {key: (replace(self.identity, adapter=adapter), References(unet, adapter))}
        return self._placed[key]

    def cleanup(self) -> None:
        """After a sampling: nothing stays on the device."""
        self._placed = {}


def with_identity(model: ModelPatcher, patch: IdentityPatch) -> ModelPatcher:
    """A clone of MODEL that restores this person."""
    model = model.clone()
    model.set_model_patch(patch, PATCH)
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, PATCH, lambda _: patch.cleanup())
    return model


def patches_of(options: dict[str, Any]) -> list[IdentityPatch]:
    return options.get("patches", {}).get(PATCH, [])


def identity_conds(
    patcher: ModelPatcher | None, noise: Tensor, values: dict[str, Any], placement: Placement
) -> dict[str, Any]:
    """The conditions that lie on the canvas, for tiles and area prompts to crop; and whether a row may be
    called by the person's name."""
    patches = patches_of(patcher.model_options["transformer_options"]) if patcher is not None else []
    if not patches:
        return {}
    free = values.get("prompt_type") == "positive" and values.get(NULL_PROMPT, False)
    conds: dict[str, Any] = {NAMED: comfy.conds.CONDRegular(torch.tensor([[float(free)]]))}
    for number, patch in enumerate(patches):
        if (area := patch.identity.area) is not None:
            conds[f"{AREA}{number}"] = comfy.conds.CONDNoiseShape(placement.of(area, "area").to(noise))
    return conds


def check_masks(model: ModelPatcher, pictures: int) -> None:
    """Raise ValueError where the masks of a MODEL's persons are not one, or one for each of the pictures."""
    for patch in patches_of(model.model_options["transformer_options"]):
        if (area := patch.identity.area) is not None and len(area) not in (1, pictures):
            raise ValueError(
                f"The {len(area)} masks of ApplyPersonalization do not fit {pictures} pictures: give one, or "
                "one for each."
            )


def apply_identities(
    evaluate: Callable[[dict[str, Any], Tensor | None], Tensor],
    unet: UNet,
    patches: Sequence[IdentityPatch],
    state: Any,
    sigma: Tensor,
    timestep: int,
    context: Tensor | None,
    conds: dict[str, Any],
    dtype: torch.dtype,
) -> Tensor:
    """The prediction for those who act at this noise level. Takes its conditions out of `conds`.

    Args:
        evaluate: the model, from what acts at the U-Net's sites and the text context.
        state: of the model's weights; references are read anew where it is another.
        sigma: noise levels [B]; `timestep` is the first one's.
    """
    rows = conds.pop(NAMED, None)
    areas = [conds.pop(f"{AREA}{number}", None) for number in range(len(patches))]
    acting = [
        (*patch.at(unet, state, sigma.device, dtype), area)
        for patch, area in zip(patches, areas, strict=True)
        if patch.acts(float(sigma[0]))
    ]
    identities = [identity for identity, _, _ in acting]
    found = [references.at(timestep) for _, references, _ in acting]
    if acting and context is not None and rows is not None:
        context = context.to(sigma.device, dtype)
        own, context = of_one_length(named(context, identities), context)
        context = torch.where(rows.to(own)[:, :, None] > 0, own, context)

    def predict(who: Sequence[int]) -> Tensor:
        return evaluate(personalization(unet, [identities[k] for k in who], [found[k] for k in who]), context)

    return each_in_its_area(predict, [area for _, _, area in acting])
