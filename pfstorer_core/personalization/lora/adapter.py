"""LoRA's adapter: changes of the U-Net's weights, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from ...checkpoints.errors import StateDict
from ...checkpoints.fields import Rules, listed, one_of, text
from ...diffusion.schedule import Schedule
from ...models import UNet
from ...restorers.changes import Changes
from ..base import Adapter
from ..header import FORMAT, AdapterHeader
from ..weights import LowRank, changeable, factor_at, feature_scale
from .files import file_tensors, made_for, read_layers
from .layers import known_names


@dataclass(frozen=True, kw_only=True)
class LoRAHeader(AdapterHeader):
    """What the tensors do not tell.

    Attributes:
        made_for: of one that was made elsewhere: what it says of its base, in its maker's words.
        notes: what was left out when it was read, a sentence each.
    """

    rules: ClassVar[Rules] = {
        **AdapterHeader.rules,
        "prediction_type": one_of("eps", "v", ""),
        "made_for": text(200),
        "notes": listed(text(500), 0, 8),
    }

    method: str = "lora"
    made_for: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class BoundLoRA:
    """A LoRA in one U-Net: the same changes at every time step."""

    changes: Changes

    def prepare(self, timestep: int) -> Changes:
        return self.changes


@dataclass(frozen=True, eq=False)
class LoRAAdapter(Adapter):
    """A person, or whatever a LoRA knows.

    Attributes:
        layers: changes by the `flat` names of their layers, see `known_names`.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"weights"})

    header: LoRAHeader  # pyright: ignore[reportIncompatibleVariableOverride] - it is frozen
    layers: dict[str, LowRank]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> LoRAAdapter:
        return replace(self, layers={name: low.to(device, dtype) for name, low in self.layers.items()})

    def check_fit(self, unet: UNet, image_size: int, name: str = "this restorer") -> None:
        names, weights, faults = known_names(unet), changeable(unet), list[str]()
        if unknown := [layer for layer in self.layers if layer not in names]:
            faults.append(
                f"{name} has no layer {unknown[0]} ({len(unknown)} of {len(self.layers)} are unknown)"
            )
        for layer, low in self.layers.items():
            if layer in names and not low.fits(weight := weights[names[layer]]):
                sizes = f"{len(low.up)} x {low.down[0].numel()}", f"{len(weight)} x {weight[0].numel()}"
                faults.append(f"{layer} is {sizes[0]}, but {sizes[1]} in {name}")
        if len({names.get(layer, layer) for layer in self.layers}) < len(self.layers):
            faults.append("it changes a layer under two names")
        if faults:
            said = f"; it says that it was made for {self.header.made_for}" if self.header.made_for else ""
            raise ValueError(
                f"This LoRA does not fit: {faults[0]}{said}. Load the restorer that it was trained with, or "
                "choose a LoRA of the same Stable Diffusion."
            )

    def bind(
        self, unet: UNet, schedule: Schedule, gamma: float = 1.0, factors: Mapping[int, float] | None = None
    ) -> BoundLoRA:
        names, weights = known_names(unet), dict[str, list[LowRank]]()
        for name, low in self.layers.items():
            layer = names[name]
            if strength := gamma * factor_at(feature_scale(unet.config, layer), factors or {}):
                weights[f"{layer}.weight"] = [low.scaled(strength)]
        return BoundLoRA(Changes(weights=weights))

    def tensors(self) -> StateDict:
        return file_tensors(self.layers)


def load(tensors: StateDict, metadata: Mapping[str, str], name: str) -> LoRAAdapter:
    """Of the file of that name, ours or made elsewhere, in fp32 on the CPU; raises CheckpointError, see
    `read_layers`."""
    layers, notes = read_layers(tensors, name)
    if metadata.get("format") == FORMAT:
        return LoRAAdapter(LoRAHeader.from_file(metadata, name), layers)
    header = LoRAHeader(base="", prediction_type="", made_for=made_for(metadata), notes=notes)
    return LoRAAdapter(header, layers)
