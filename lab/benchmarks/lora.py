"""The adapter that people have already: a LoRA of the U-Net, on the same photos with the same loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pfstorer_core.checkpoints.tensors import read_checkpoint, write_safetensors
from pfstorer_core.diffusion.schedule import PredictionType, Schedule
from pfstorer_core.models import UNet
from pfstorer_core.personalization.pfstorer.train import AdapterTraining
from pfstorer_core.personalization.photos import Pairs, Photos
from pfstorer_core.restorers.base import Restorer
from pfstorer_core.training.data import Batch, generators, normal
from pfstorer_core.training.degradation import random_degradation
from pfstorer_core.training.loop import Objective, OnProgress, fit
from pfstorer_core.training.progress import silent


class LowRank(nn.Module):
    """W + strength·B·A for a weight of any rank (Hu et al. 2021); B starts at 0."""

    def __init__(self, weight: Tensor, rank: int, strength: list[float]) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank))
        self.strength = strength

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.strength[0] * (self.up @ self.down).view_as(weight).to(weight)


class LoRA:
    """All linear and convolution layers of a U-Net, as ComfyUI's own training has it, at the rank that comes
    nearest to a number of parameters.

    `strength` is a list of one number, so that all layers see it change.
    """

    def __init__(self, unet: UNet, parameters: int, seed: int = 0) -> None:
        self.unet = unet
        self.layers = {
            name: module
            for name, module in unet.named_modules()
            if isinstance(module, (nn.Linear, nn.Conv2d))
        }
        per_rank = sum(len(w) + w[0].numel() for w in (layer.weight for layer in self.layers.values()))
        self.rank = max(1, round(parameters / per_rank))
        self.strength = [1.0]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.parts = nn.ModuleDict(
                {
                    name.replace(".", "-"): LowRank(layer.weight, self.rank, self.strength)
                    for name, layer in self.layers.items()
                }
            )

    @contextmanager
    def applied(self, strength: float = 1.0) -> Iterator[None]:
        self.strength[0] = strength
        for name, layer in self.layers.items():
            parametrize.register_parametrization(layer, "weight", self.parts[name.replace(".", "-")])
        try:
            yield
        finally:
            for layer in self.layers.values():
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)

    def save(self, path: Path) -> None:
        write_safetensors(path, self.parts.state_dict(), {}, torch.float16)

    def load(self, path: Path) -> None:
        self.parts.load_state_dict(read_checkpoint(path)[0])


class RestorationLoss(Objective):
    """L_Diff alone, with the empty prompt."""

    def __init__(self, restorer: Restorer, lora: LoRA) -> None:
        super().__init__()
        self.parts = lora.parts
        self.unet = [restorer.unet]  # not as a module: its own weights stay where they are
        self.context = restorer.null_context
        self.prediction: PredictionType = restorer.header.prediction_type
        self.schedule = Schedule.scaled_linear(dtype=torch.float32)

    def forward(self, batch: Batch) -> Tensor:
        rngs = generators(batch)
        hq, lq = batch["hq"], batch["lq"]
        t = torch.tensor([int(rng.integers(len(self.schedule))) for rng in rngs])
        noise = normal(hq, rngs)
        x, target = self.schedule.q_sample(hq, t, noise), self.schedule.target(hq, t, noise, self.prediction)
        context = self.context.expand(len(x), -1, -1)
        return F.mse_loss(self.unet[0](x, t, context, condition=lq).float(), target)


def train_lora(
    restorer: Restorer,
    photos: list[Tensor],
    settings: AdapterTraining,
    parameters: int,
    folder: Path,
    on_progress: OnProgress = silent,
) -> LoRA:
    """On the photos, pairs, seeds and rate that an identity adapter would be trained on."""
    lora = LoRA(restorer.unet, parameters, settings.seed)
    seen = Photos.of(restorer, photos)
    degradation = random_degradation(settings.degradation, restorer.header.image_size)
    pairs = Pairs(restorer, seen, degradation, settings.p_hq, settings.pool, settings.batch, settings.seed)
    loop = replace(settings.loop(restorer.unet.config.model_channels), validate_every=0)
    try:
        with lora.applied():
            fit("lora", RestorationLoss(restorer, lora), pairs, loop, folder, on_progress)
    finally:
        pairs.close()
    return lora
