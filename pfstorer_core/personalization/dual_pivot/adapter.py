"""Dual-Pivot's adapter: changes of the weights of the U-Net and its control network, and a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from ...checkpoints.errors import CheckpointError, StateDict
from ...checkpoints.parts import CONTROL
from ...checkpoints.tensors import is_finite
from ...checkpoints.words import plain
from ...diffusion.schedule import Schedule
from ...models import UNet
from ...restorers.changes import Changes
from ..base import Adapter, context_faults
from ..weights import Full, LowRank, factor_at, feature_scale
from .header import DualPivotHeader

CONTEXT = "context.main"
UP, DOWN, ALPHA = ".lora_up", ".lora_down", ".alpha"
"""What the parts of a low-rank change add to the name of their parameter."""

WeightDeltas = Mapping[str, "Full | LowRank"]
"""Changes by the names of the U-Net's parameters."""


@dataclass(frozen=True)
class BoundPivots:
    """An adapter in one U-Net: the same changes at every time step."""

    changes: Changes

    def prepare(self, timestep: int) -> Changes:
        return self.changes


@dataclass(frozen=True, eq=False)
class DualPivotAdapter(Adapter):
    """A person. It holds changes only, never a weight of the base.

    Attributes:
        context: text context of the person's prompt [1, L, D].
        text: changes of the generator, which is Stable Diffusion's U-Net. model: of its control network.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"weights", "context"})

    header: DualPivotHeader  # pyright: ignore[reportIncompatibleVariableOverride] - it is frozen
    context: Tensor
    text: WeightDeltas
    model: WeightDeltas

    def to(self, device: torch.device | str, dtype: torch.dtype) -> DualPivotAdapter:
        text, model = (
            {name: change.to(device, dtype) for name, change in changes.items()}
            for changes in (self.text, self.model)
        )
        return replace(self, context=self.context.to(device, dtype), text=text, model=model)

    def check_fit(self, unet: UNet, image_size: int, name: str = "this restorer") -> None:
        if self.model and unet.control_model is None:
            raise ValueError(
                f"This Dual-Pivot adapter changes a control network, which {name} does not have: load the "
                "DiffBIR restorer that it was trained with, or learn the person with the text pivot alone."
            )
        weights, faults = dict(unet.named_parameters()), list[str]()
        for parameter, change in {**self.text, **self.model}.items():
            if parameter not in weights:
                faults.append(f"{name} has no {parameter}")
            elif not change.fits(weights[parameter]):
                faults.append(f"{parameter} is of another size in {name} ({list(weights[parameter].shape)})")
        faults += context_faults(self.context, unet, name)
        if faults:
            raise ValueError(
                f"This Dual-Pivot adapter does not fit: {faults[0]}. Load the restorer that it was trained "
                "with, or train it anew."
            )

    def bind(
        self, unet: UNet, schedule: Schedule, gamma: float = 1.0, factors: Mapping[int, float] | None = None
    ) -> BoundPivots:
        weights, share = dict[str, list[Full | LowRank]](), 0.0
        for name, change in {**self.text, **self.model}.items():
            if strength := gamma * factor_at(feature_scale(unet.config, name), factors or {}):
                weights[name] = [change.scaled(strength)]
                share = max(share, strength)
        share = min(share, 1.0)
        context = self.context if share else None
        return BoundPivots(Changes(weights=weights, context=context, context_share=share))

    def tensors(self) -> StateDict:
        tensors: StateDict = {CONTEXT: self.context}
        for pivot, changes in (("text", self.text), ("model", self.model)):
            for name, change in changes.items():
                key = f"{pivot}.{name}"
                if isinstance(change, Full):
                    tensors[key] = change.strength * change.change
                else:
                    tensors |= {key + UP: change.up, key + DOWN: change.down}
                    tensors[key + ALPHA] = torch.tensor(change.alpha)
        return tensors


def load(tensors: StateDict, metadata: Mapping[str, str], name: str) -> DualPivotAdapter:
    """Of the file of that name, in fp32 on the CPU; raises CheckpointError where it is damaged."""
    header = DualPivotHeader.from_file(metadata, name)
    for key, value in tensors.items():
        if not value.is_floating_point() or not is_finite(value):
            _refuse(name, f"{plain(key)} holds NaN, infinity or no fractions ({value.dtype})")
    context = tensors.get(CONTEXT)
    if context is None or context.ndim != 3 or len(context) != 1 or not context.numel():
        _refuse(name, f"{CONTEXT} is {'missing' if context is None else list(context.shape)}")
    found: dict[str, dict[str, Full | LowRank]] = {"text": {}, "model": {}}
    for key in tensors:
        pivot, _, parameter = key.partition(".")
        if key == CONTEXT or parameter.endswith((DOWN, ALPHA)):
            continue
        if pivot not in found:
            _refuse(name, f"it holds {plain(key)}, which is no part of it")
        parameter = parameter.removesuffix(UP)
        if parameter.startswith(CONTROL.prefix) != (pivot == "model"):
            _refuse(name, f"{plain(parameter)} is not the {pivot} pivot's")
        if parameter in found[pivot]:
            _refuse(name, f"{plain(parameter)} is changed twice")
        found[pivot][parameter] = _change(tensors, f"{pivot}.{parameter}", name)
    parts = sum(3 if isinstance(c, LowRank) else 1 for each in found.values() for c in each.values())
    if parts + 1 != len(tensors):
        _refuse(name, "it holds parts of changes without the rest")
    for pivot, changes in found.items():
        if bool(changes) != (header.pivots in (pivot, "both")):
            _refuse(name, f"it says that it has {header.pivots}, and has {len(changes)} of the {pivot} pivot")
    return DualPivotAdapter(header, context.float().clone(), found["text"], found["model"])


def _change(tensors: StateDict, key: str, name: str) -> Full | LowRank:
    if key in tensors:
        return Full(tensors[key].float().clone())
    if missing := [part for part in (UP, DOWN, ALPHA) if key + part not in tensors]:
        _refuse(name, f"{plain(key)} has no {missing[0][1:]}")
    up, down, alpha = (tensors[key + part].float().clone() for part in (UP, DOWN, ALPHA))
    fits = up.ndim in (2, 4) and down.ndim in (2, 4) and up.numel() and up.flatten(1).shape[1] == len(down)
    if not fits or alpha.numel() != 1:
        _refuse(name, f"up, down and alpha of {plain(key)} are {[list(t.shape) for t in (up, down, alpha)]}")
    return LowRank(up, down, float(alpha))


def _refuse(name: str, why: str) -> NoReturn:
    raise CheckpointError(
        f"The Dual-Pivot adapter {plain(name)} is damaged: {why}. Take it from a copy, or learn the person "
        "anew."
    )
