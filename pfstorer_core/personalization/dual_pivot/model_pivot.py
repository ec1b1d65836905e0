"""The model pivot: the control network learns to guide the person's generator, which stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...restorers.base import Restorer
from ...training.data import Batch, Samples, generators, normal
from ...training.loop import LoopSettings
from ...training.progress import OnTick, Progress
from ..photos import Photos
from .adapter import DualPivotAdapter, WeightDeltas
from .data import PivotPairs
from .learning import learned_weights
from .parameters import guide_names
from .pivot import Pivot
from .settings import DualPivotTraining

SHARES = {"personal": 0.0, "mixed": 0.5, "generic": 1.0}
"""Of generic pictures, by what `data` says."""


class ModelPivot(Pivot):
    """L_Diff of the restorer with the text pivot's changes, of which only the control network is trained: its
    residuals come in behind the U-Net's encoder, through which no gradient has to flow.

    Args:
        text: what the text pivot has changed of the generator.
    """

    pivot: ClassVar[str] = "model"

    def __init__(
        self, restorer: Restorer, photos: Photos, settings: DualPivotTraining, text: WeightDeltas
    ) -> None:
        super().__init__(restorer, photos, settings)
        s, names = settings, guide_names(restorer.unet, settings.model_weights)
        self.learning = learned_weights(restorer.unet, names, s.model_weights, s.rank, s.seed)
        self.text = text

    def rate(self, width: int) -> float:
        return self.settings.lr_model or self.settings.rate(width, "model")

    def loop(self) -> LoopSettings:
        return replace(super().loop(), clip=0.0)

    def prepare(self, shared: Path, on_progress: Callable[[Progress], None], on_tick: OnTick) -> None:
        if SHARES[self.settings.data] and self.generic is None:
            self.generic = self.class_files(shared, on_progress)

    def samples(self, photos: Photos, on_tick: OnTick) -> Samples:
        s = self.settings
        pairs = self.pairs(photos, s.pool, s.batch, s.seed, s.p_hq, on_tick)
        assert isinstance(pairs, PivotPairs)
        pairs.generic, pairs.share = self.generic, SHARES[s.data]
        return pairs

    def drawn(self, batch: Batch) -> tuple[Any, ...]:
        rngs, moments = generators(batch), batch["moments"]
        t = torch.tensor([int(rng.integers(len(self.restorer.schedule))) for rng in rngs])
        like = moments.chunk(2, dim=1)[0]
        latents = self.restorer.draw_latent(moments, normal(like, rngs))
        generic = (batch["photo"] < 0).long()
        return latents, batch["lq"], t.to(like.device), normal(like, rngs), generic

    def loss(self, latents: Tensor, lq: Tensor, t: Tensor, noise: Tensor, generic: Tensor) -> Tensor:
        """
        Args:
            latents: scaled draws [B, C, h, w]. lq: scaled modes of the cleaned bad copies, of that shape.
            generic: of each row, 1 where it is not of the person [B].
        """
        condition = self.restorer.condition(lq)
        contexts = self.contexts[generic]
        return self.restorer.denoising_error(latents, t, noise, condition, contexts, self.changes())

    def deltas(self) -> tuple[WeightDeltas, WeightDeltas]:
        return self.text, self.learning.learned()

    def take(self, begun: DualPivotAdapter) -> None:
        self.learning.take(begun.model)
