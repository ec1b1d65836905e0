"""The smallest method there can be: it learns a constant that is added to the predicted clean latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from pfstorer_core.checkpoints.errors import StateDict
from pfstorer_core.diffusion.schedule import Schedule
from pfstorer_core.models import UNet
from pfstorer_core.personalization.base import Adapter
from pfstorer_core.personalization.header import AdapterHeader
from pfstorer_core.personalization.objective import PersonObjective, PersonTraining
from pfstorer_core.personalization.photos import Photos
from pfstorer_core.personalization.registry import Method
from pfstorer_core.restorers.base import Restorer
from pfstorer_core.restorers.changes import Changes
from pfstorer_core.training.data import Batch


@dataclass(frozen=True)
class BoundShift:
    changes: Changes

    def prepare(self, timestep: int) -> Changes:
        return self.changes


@dataclass(frozen=True, eq=False)
class Shift(Adapter):
    kinds: ClassVar[frozenset[str]] = frozenset({"guidance"})

    header: AdapterHeader
    shift: Tensor
    """[1, C, 1, 1]"""

    def tensors(self) -> StateDict:
        return {"shift": self.shift}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Shift:
        return replace(self, shift=self.shift.to(device, dtype))

    def check_fit(self, unet: UNet, image_size: int, name: str = "this restorer") -> None:
        if self.shift.shape[1] != unet.config.out_channels:
            raise ValueError(f"{name} has other latents.")

    def bind(
        self, unet: UNet, schedule: Schedule, gamma: float = 1.0, factors: Mapping[int, float] | None = None
    ) -> BoundShift:
        added = gamma * (factors or {}).get(1, 1.0) * self.shift
        return BoundShift(Changes(guidance=[lambda x0: x0 + added.to(x0)]))


@dataclass(frozen=True)
class ShiftTraining(PersonTraining[Shift]):
    method: ClassVar[str] = "toy"

    def rate(self, width: int) -> float:
        return 0.1


class ShiftLoss(PersonObjective[Shift]):
    def __init__(self, restorer: Restorer, photos: Photos, settings: ShiftTraining) -> None:
        super().__init__()
        self.restorer, self.settings = restorer, settings
        self.shift = nn.Parameter(torch.zeros(1, restorer.unet.config.out_channels, 1, 1))

    def forward(self, batch: Batch) -> Tensor:
        return (batch["hq"] - batch["lq"] - self.shift).square().mean()

    def adapter(self, run_key: str, steps: int, losses: Sequence[float]) -> Shift:
        header = AdapterHeader(
            method="toy",
            base=self.restorer.fingerprint,
            prediction_type=self.restorer.header.prediction_type,
            run_key=run_key,
            steps=steps,
            losses=list(losses),
            training=asdict(self.settings),
        )
        return Shift(header, self.shift.detach().cpu().clone())

    @torch.no_grad()
    def take(self, begun: Shift) -> None:
        self.shift.copy_(begun.shift)


def load(tensors: StateDict, metadata: Mapping[str, str], name: str) -> Shift:
    return Shift(AdapterHeader.from_file(metadata, name), tensors["shift"].float())


METHOD = Method("toy", "Toy", load, ShiftTraining, ShiftLoss)
