"""How a LoRA learns a person: the restorer's own loss on their photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...models import UNet
from ...restorers.base import Restorer
from ...restorers.changes import Changes
from ...restorers.condition import UNCONDITIONAL, Condition
from ...training.data import Batch, generators, normal
from ...training.objective import DrawnObjective
from ..errors import denoising_errors
from ..objective import PersonObjective, PersonTraining
from ..photos import Photos
from ..weights import LowRank, changeable, new_low_rank
from .adapter import LoRAAdapter, LoRAHeader
from .layers import flat

TARGETS = {"attention": (".attn1.", ".attn2."), "all": ("",)}
"""Layers that learn, by a part of their names: the projections of all attentions, as in diffusers' scripts,
or all linear layers and convolutions, as in ComfyUI's training."""
RATES = {256: 1e-4, 0: 2e-3}
"""Peak learning rates by the least width of the U-Net: diffusers' of SD, and the tiny restorer's."""


@dataclass(frozen=True)
class LoRATraining(PersonTraining):
    """How to train a LoRA.

    Attributes:
        rank: of each change.
        alpha: a change's factor is alpha / rank; None for the rank itself.
        targets: one of `TARGETS`; "" for "attention" where the finest level of the U-Net has some, as in
            Stable Diffusion, else for "all".
        lambda_gen: weight of the loss without the LQ picture.
    """

    method: ClassVar[str] = "lora"

    rank: int = 4
    alpha: float | None = None
    targets: str = ""
    lambda_gen: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.rank <= 1024:
            raise ValueError(f"rank must be from 1 to 1024, got {self.rank}.")
        if self.alpha is not None and not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha must be above 0, got {self.alpha}.")
        if self.targets and self.targets not in TARGETS:
            raise ValueError(f"No targets {self.targets!r}; choose one of {', '.join(TARGETS)}.")
        if not self.lambda_gen >= 0:
            raise ValueError(f"lambda_gen must be 0 or more, got {self.lambda_gen}.")

    def rate(self, width: int) -> float:
        return next(rate for least, rate in RATES.items() if width >= least)


def trained_layers(unet: UNet, targets: str = "") -> dict[str, Tensor]:
    """The weights that a training changes, by their layers; see `LoRATraining.targets`."""
    targets = targets or ("attention" if 1 in unet.config.attention_resolutions else "all")
    return {
        layer: weight
        for layer, weight in changeable(unet).items()
        if any(part in layer for part in TARGETS[targets])
    }


class LoRALoss(DrawnObjective, PersonObjective):
    """L_Diff + λ_Gen·L_Gen of samples under the empty prompt, for which everything random is drawn from their
    seeds."""

    def __init__(self, restorer: Restorer, photos: Photos, settings: LoRATraining) -> None:
        super().__init__()
        self.restorer, self.settings = restorer, settings
        layers = trained_layers(restorer.unet.requires_grad_(False), settings.targets)
        generator = torch.Generator().manual_seed(settings.seed)
        self.names = {flat(layer): f"{layer}.weight" for layer in layers}
        self.up, self.down = nn.ParameterDict(), nn.ParameterDict()
        for layer, weight in layers.items():
            self.up[flat(layer)], self.down[flat(layer)] = new_low_rank(weight, settings.rank, generator)

    def drawn(self, batch: Batch) -> tuple[Any, ...]:
        rngs = generators(batch)
        hq, restorer = batch["hq"], self.restorer
        t = torch.tensor([int(rng.integers(len(restorer.schedule))) for rng in rngs], device=hq.device)
        return hq, t, normal(hq, rngs), restorer.condition(batch["lq"])

    def loss(self, hq: Tensor, t: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """Of latents and noise [B, C, h, w], time steps [B], and what the restorer goes by."""
        restorer = self.restorer
        changes = Changes(weights={self.names[name]: [low] for name, low in self.layers().items()})
        regularized = self.settings.lambda_gen
        conditions = [condition, *([UNCONDITIONAL] if regularized else [])]
        errors = denoising_errors(restorer, hq, t, noise, conditions, changes=changes)
        return errors[0] + regularized * errors[1:].sum()

    def layers(self) -> dict[str, LowRank]:
        alpha = self.settings.alpha or float(self.settings.rank)
        return {name: LowRank(self.up[name], self.down[name], alpha) for name in self.names}

    def adapter(self, run_key: str, steps: int, losses: Sequence[float]) -> LoRAAdapter:
        header = LoRAHeader(
            base=self.restorer.fingerprint,
            prediction_type=self.restorer.header.prediction_type,
            run_key=run_key,
            steps=steps,
            losses=list(losses),
            training=asdict(self.settings),
        )
        layers = {
            name: LowRank(low.up.detach().clone(), low.down.detach().clone(), low.alpha)
            for name, low in self.layers().items()
        }
        return LoRAAdapter(header, layers).to("cpu", torch.float32)

    @torch.no_grad()
    def take(self, begun: LoRAAdapter) -> None:
        for name, low in begun.layers.items():
            self.up[name].copy_(low.up)
            self.down[name].copy_(low.down)
