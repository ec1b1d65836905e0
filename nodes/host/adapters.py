"""Identities in a MODEL: what ApplyPersonalization adds to it, and what the model does with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import comfy.conds
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy_api.latest import io
from torch import Tensor

from ...pfstorer_core.models import UNet
from ...pfstorer_core.personalization.base import BoundAdapter
from ...pfstorer_core.personalization.identity import (
    Identity,
    each_in_its_area,
    of_one_length,
    personal_context,
)
from ...pfstorer_core.restorers.changes import Changes, evaluated
from .images import from_mask
from .placement import FRAME, WHOLE, Placement
from .weights import weight_patches, weights_state, with_weights

PATCH = "pfstorer_identity"
"""The host keeps what a clone of a MODEL was given in lists of this name."""
AREA, NAMED = "identity_area_", "identity_named"
"""Conditions: where identity k acts, and the rows whose prompt nobody wrote."""
KEPT = "pfstorer_kept"
"""In a conditioning's values, once a sampling is prepared: how many numbers persons keep on the device."""
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
    _bound: dict[Any, BoundAdapter] = field(default_factory=dict)

    def acts(self, sigma: float) -> bool:
        return self.end <= sigma <= self.start

    def changes(self, model: Any, sigma: Tensor) -> Changes:
        """What it changes of a `RestorerModel`'s evaluation at a noise level [B]. The adapter is bound where
        the model is, and anew for each state of the weights."""
        place = (sigma.device, model.get_dtype_inference())
        key = (weights_state(model.current_patcher), place)
        if key not in self._bound:
            adapter, schedule = self.identity.adapter, model.header.schedule
            if adapter.kinds - {"weights", "context"}:  # of these, the weights have become the model's own
                adapter = adapter.to(*place)
            gamma, factors = self.identity.gamma, self.identity.factors
            self._bound = {key: adapter.bind(model.diffusion_model, schedule, gamma, factors)}
        return self._bound[key].prepare(int(model.model_sampling.timestep(sigma[:1]).round()))

    def guide(self, args: dict[str, Any]) -> Tensor:
        """The host's post-CFG function: what the sampler goes on with, instead of the predicted x0."""
        x0, sigma = args["denoised"], args["sigma"]
        if self.acts(float(sigma[0])):
            for guidance in self.changes(args["model"], sigma).guidance:
                x0 = guidance(x0)
        return x0

    def cleanup(self) -> None:
        """After a sampling: nothing stays on the device."""
        self._bound = {}


def personalized(
    model: ModelPatcher, identity: Identity, start_percent: float = 0.0, end_percent: float = 1.0
) -> ModelPatcher:
    """A clone of MODEL, one of ours, that restores this person in this part of the sampling.

    What changes weights is the host's to do; all else is done in the model's evaluations.
    """
    adapter, inside = identity.adapter, model.model
    assert isinstance(inside, BaseModel)
    if "weights" in adapter.kinds:
        bound = adapter.bind(cast(UNet, inside.diffusion_model), cast(Any, inside).header.schedule)
        patches = weight_patches(bound.prepare(0).weights)
        model = with_weights(model, patches, identity.gamma, start_percent, end_percent, identity.factors)
    if not adapter.kinds - {"weights"}:
        return model
    levels = inside.model_sampling
    start, end = (float(levels.percent_to_sigma(percent)) for percent in (start_percent, end_percent))
    return with_identity(model, IdentityPatch(identity, start, end))


def with_identity(model: ModelPatcher, patch: IdentityPatch) -> ModelPatcher:
    """A clone of MODEL whose evaluations know this person."""
    model = model.clone()
    model.set_model_patch(patch, PATCH)
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, PATCH, lambda _: patch.cleanup())
    model.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, PATCH)
    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, PATCH, prepare_sampling)
    if "guidance" in patch.identity.adapter.kinds:
        model.set_model_sampler_post_cfg_function(patch.guide)
    return model


def prepare_sampling(
    executor: Any, model: ModelPatcher, noise_shape: Any, conds: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    """The host's PREPARE_SAMPLING wrapper: what persons keep is a part of the memory that is needed, on
    however many tiles. `RestorerModel.memory_required` is told of it by the conditions."""
    patches = patches_of(model.model_options["transformer_options"])
    kept = sum(patch.identity.adapter.kept(cast(Any, model.model).sizes) for patch in patches)
    counted = {name: [{**cond, KEPT: kept} for cond in given] for name, given in conds.items()}
    return executor(model, noise_shape, counted, *args, **kwargs)


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
            placed = placement.of(area, "area", values.get(FRAME, WHOLE))
            conds[f"{AREA}{number}"] = comfy.conds.CONDNoiseShape(placed.to(noise))
    return conds


def area_of(mask: Tensor | None) -> Tensor | None:
    """Where an identity acts, by a node's input mask [B, H, W] or [H, W]; raises ValueError for an empty
    one."""
    area = None if mask is None else from_mask(mask).cpu()
    if area is not None and not area.any():
        raise ValueError(
            "The input mask is empty, so that the person would act nowhere: paint where they are, or "
            "leave the mask unconnected for the whole picture."
        )
    return area


def check_masks(model: ModelPatcher, pictures: int) -> None:
    """Raise ValueError where the masks of a MODEL's persons are not one, or one for each of the pictures."""
    for patch in patches_of(model.model_options["transformer_options"]):
        if (area := patch.identity.area) is not None and len(area) not in (1, pictures):
            raise ValueError(
                f"The {len(area)} masks of a person do not fit {pictures} pictures: give one, or "
                "one for each."
            )


def apply_identities(
    evaluate: Callable[[Tensor | None, Changes], Tensor],
    model: Any,
    patches: Sequence[IdentityPatch],
    sigma: Tensor,
    context: Tensor | None,
    conds: dict[str, Any],
) -> Tensor:
    """The prediction for those who act at this noise level. Takes its conditions out of `conds`.

    Args:
        evaluate: the model, from the text context and what changes.
        model: a `RestorerModel`; what adapters keep is made anew where its weights were patched.
        sigma: noise levels [B].
    """
    rows = conds.pop(NAMED, None)
    areas = [conds.pop(f"{AREA}{number}", None) for number in range(len(patches))]
    acting = [k for k, patch in enumerate(patches) if patch.acts(float(sigma[0]))]
    areas = [areas[k] for k in acting]
    changes = [patches[k].changes(model, sigma) for k in acting]
    if acting and context is not None and rows is not None:
        context = context.to(sigma.device, model.get_dtype_inference())
        own, context = of_one_length(personal_context(context, changes, areas), context)
        context = torch.where(rows.to(own)[:, :, None] > 0, own, context)
    predict = partial(evaluate, context)
    return each_in_its_area(lambda who: evaluated(predict, [changes[k] for k in who]), areas)
