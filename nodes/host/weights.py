"""Changes of a MODEL's weights, such as a LoRA's: for all steps, or for some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy.hooks import Hook, HookGroup, WeightHook
from comfy.model_patcher import ModelPatcher, ModelPatcherDynamic
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ...pfstorer_core.models import UNetConfig
from ...pfstorer_core.personalization.weights import Full, LowRank, factor_at, feature_scale
from ...pfstorer_core.restorers.changes import WeightChange

KEY = "pfstorer.weights"
PREFIX = "diffusion_model."
"""Of the U-Net's parameters in the host's MODEL."""


def weight_patches(weights: Mapping[str, Sequence[WeightChange]]) -> dict[str, Any]:
    """What the host calls patches, of what an adapter changes by the names of the U-Net's parameters: LoRAs,
    and whole differences.

    Raises:
        ValueError: a change of another kind, which the host has no patch for.
    """
    return {PREFIX + name: _patch(name, change) for name, (change,) in weights.items()}


def _patch(name: str, change: WeightChange) -> Any:
    if isinstance(change, LowRank):
        return LoRAAdapter(set(), (change.up, change.down, change.alpha, None, None, None))
    if isinstance(change, Full):
        return ("diff", (change.change if change.strength == 1 else change.strength * change.change,))
    raise ValueError(f"{name} is changed by a {type(change).__name__}, which the host has no patch for.")


def with_weights(
    model: ModelPatcher,
    patches: Mapping[str, Any],
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    factors: Mapping[int, float] | None = None,
) -> ModelPatcher:
    """A clone of MODEL with other weights. At strength 0 it has the weights of MODEL, bit for bit.

    All the time they are what the host's LoRA loaders give. For a part of it they are the host's hooks, which
    put the weights on and take them off between steps. Where the host streams weights (DynamicVRAM) it has no
    hooks: as for conditioning with hooks, it then loads the file once more, without streaming.

    Args:
        patches: by the key of the host's state dict, see `weight_patches`.
        start_percent, end_percent: how far sampling is, 0…1, when they begin and end to act.
        factors: further factors on strength by how much smaller than the latent a layer's features are (1, 2,
            4), see `factor_at`.
    Raises:
        ValueError: a patch for a weight that the MODEL does not have.
    """
    known = model.model.state_dict()
    if unknown := [key for key in patches if key not in known]:
        raise ValueError(
            f"{len(unknown)} of {len(patches)} changes of weights are for layers that this MODEL does not "
            f"have ({unknown[0]}, …): load the restorer that they were learned on."
        )
    by_strength = _by_strength(model.model.sizes, patches, strength, factors or {})
    always = start_percent <= 0 and end_percent >= 1
    if not always and by_strength and isinstance(model, ModelPatcherDynamic):
        model = model.get_non_dynamic_delegate()
    else:
        model = model.clone()
    if always:
        for each, group in by_strength.items():
            model.add_patches(group, each)
    elif by_strength:
        hook = WeightHook()
        for each, group in by_strength.items():
            model.add_hook_patches(hook, group, each)
        levels: Any = model.get_model_object("model_sampling")
        start, end = (float(levels.percent_to_sigma(percent)) for percent in (start_percent, end_percent))
        hooked = HookedSteps(hook, start, end)
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, hooked.calc_cond_batch)
        model.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, hooked.cleanup)
    return model


class HookedSteps:
    """Lets a hook act from noise level `start` down to `end`, whatever the conditioning says.

    The host reads hooks from the conditioning. A MODEL sees that when it is evaluated at the earliest, which
    is early enough: the host looks then which hooks the conditions have, and sets the weights accordingly.
    """

    def __init__(self, hook: Hook, start: float, end: float) -> None:
        self.start, self.end = start, end
        self._alone = HookGroup()
        self._alone.add(hook)
        self._combined: dict[HookGroup, HookGroup] = {}

    def calc_cond_batch(
        self,
        executor: Any,
        model: Any,
        conds: Sequence[Any],
        x: Tensor,
        sigma: Tensor,
        options: dict[str, Any],
    ) -> Any:
        """CALC_COND_BATCH wrapper: in its steps the hook is on every condition, beside its own."""
        if self.end <= float(sigma[0]) <= self.start:
            conds = [
                cond and [{**one, "hooks": self._beside(one.get("hooks"))} for one in cond] for cond in conds
            ]
        return executor(model, conds, x, sigma, options)

    def _beside(self, own: HookGroup | None) -> HookGroup:
        """Always the same group for the same hooks: the host sets the weights anew for another one."""
        if own is None:
            return self._alone
        if own not in self._combined:
            self._combined[own] = own.clone_and_combine(self._alone)
        return self._combined[own]

    def cleanup(self, _: ModelPatcher) -> None:
        """After a sampling: the conditioning's hooks are let go."""
        self._combined = {}


def weights_state(patcher: ModelPatcher | None) -> Any:
    """Differs where the weights of a MODEL do: what was computed by others has to be computed anew."""
    if patcher is None:
        return None
    hooks = patcher.current_hooks
    acting = () if hooks is None else tuple((hook.hook_ref, hook.strength) for hook in hooks.hooks)
    return patcher.patches_uuid, acting


def check_no_mask(mask: Tensor | None, method: str) -> None:
    """Raise ValueError where a person whom a method learned into weights is to act in a part of a picture."""
    if mask is not None:
        raise ValueError(
            f"An adapter of method {method} acts in the whole picture: leave the mask unconnected, or cut "
            "the face out with Crop Face (RestorationCropFace), restore it alone, and put it back with Paste "
            "Face (RestorationPasteFace)."
        )


def _by_strength(
    sizes: UNetConfig, patches: Mapping[str, Any], strength: float, factors: Mapping[int, float]
) -> dict[float, dict[str, Any]]:
    """The patches of every strength but 0."""
    found: dict[float, dict[str, Any]] = {}
    for key, patch in patches.items():
        own = strength * factor_at(feature_scale(sizes, key.removeprefix(PREFIX)), factors)
        if own:
            found.setdefault(own, {})[key] = patch
    return found
