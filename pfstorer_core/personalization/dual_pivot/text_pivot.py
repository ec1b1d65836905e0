"""The text pivot: Stable Diffusion learns the person under a token (DreamBooth, Ruiz et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...restorers.base import Restorer
from ...restorers.condition import UNCONDITIONAL
from ...training.data import Batch, Samples, generators, normal
from ...training.loop import LoopSettings
from ...training.progress import OnTick, Progress
from ..photos import Photos
from .adapter import DualPivotAdapter, WeightDeltas
from .data import Seeds, moments_of, moments_of_files, whole
from .learning import learned_weights
from .model_pivot import ModelPivot
from .parameters import generator_names
from .pivot import Pivot
from .settings import DualPivotTraining


class TextPivot(Pivot):
    """Mean squared error of the person's rows, and `prior_weight` times that of as many rows of the class, by
    the U-Net alone: without a condition, and so without its control network."""

    pivot: ClassVar[str] = "text"

    def __init__(self, restorer: Restorer, photos: Photos, settings: DualPivotTraining) -> None:
        super().__init__(restorer, photos, settings)
        s, names = settings, generator_names(restorer.unet)
        self.learning = learned_weights(restorer.unet, names, s.text_weights, s.rank, s.seed)
        self.instance: Tensor
        self.prior: Tensor | None
        for name in ("instance", "prior"):  # moments [N, 2·C, h, w]
            self.register_buffer(name, None, persistent=False)

    def rate(self, width: int) -> float:
        return self.settings.lr or self.settings.rate(width)

    def loop(self) -> LoopSettings:
        s = self.settings
        return replace(
            super().loop(),
            steps=s.text_steps(self.pivots),
            batch=s.batch * s.accumulate,
            accumulate=s.accumulate,
        )

    def prepare(self, shared: Path, on_progress: Callable[[Progress], None], on_tick: OnTick) -> None:
        restorer, size = self.restorer, self.restorer.header.image_size
        own = [moments_of(restorer, whole(image, size)[None]) for image in self.photos.images]
        self.instance = torch.cat(own)
        if self.settings.prior_weight:
            self.prior = moments_of_files(restorer, self.class_files(shared, on_progress), on_tick)

    def samples(self, photos: Photos, on_tick: OnTick) -> Samples:
        return Seeds(self.settings.seed)

    def drawn(self, batch: Batch) -> tuple[Any, ...]:
        rngs = generators(batch)
        sources = [self.instance] if self.prior is None else [self.instance, self.prior]
        moments = torch.cat([source[[int(r.integers(len(source))) for r in rngs]] for source in sources])
        rngs *= len(sources)
        t = torch.tensor([int(rng.integers(len(self.restorer.schedule))) for rng in rngs])
        like = moments.chunk(2, dim=1)[0]
        return moments, normal(like, rngs), t.to(like.device), normal(like, rngs)

    def loss(self, moments: Tensor, drawn: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Of rows of which the first half is the person's and the second the class's; without a prior all are
        the person's.

        Args:
            moments: of the latents [B, 2·C, h, w]. drawn, noise: standard normal [B, C, h, w], of the draw
                from them and of the diffusion. t: time steps [B].
        """
        restorer, weight = self.restorer, self.settings.prior_weight
        latents = restorer.draw_latent(moments, drawn)
        prompts = 2 if weight else 1
        contexts = self.contexts[:prompts].repeat_interleave(len(latents) // prompts, dim=0)
        x = restorer.noised(latents, t, noise)
        output = restorer.denoise(x, t, UNCONDITIONAL, contexts, self.changes())
        errors = F.mse_loss(output.float(), restorer.target(latents, t, noise), reduction="none")
        instance, *prior = errors.chunk(prompts)
        return instance.mean() + sum(weight * each.mean() for each in prior)

    def deltas(self) -> tuple[WeightDeltas, WeightDeltas]:
        return self.learning.learned(), {}

    def take(self, begun: DualPivotAdapter) -> None:
        self.learning.take(begun.text)

    def following(self) -> ModelPivot | None:
        if self.pivots == "text" or self.settings.text_steps(self.pivots) >= self.settings.steps:
            return None
        return ModelPivot(self.restorer, self.photos, self.settings, self.learning.learned())
