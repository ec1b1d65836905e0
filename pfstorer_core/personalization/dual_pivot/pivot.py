"""What the two pivots, which are stages of one training, share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...degradation import LARGE
from ...restorers.base import Restorer
from ...restorers.changes import Changes
from ...training.data import PictureFiles, find_pictures
from ...training.degradation import RandomDegradation, random_degradation
from ...training.loop import LoopSettings
from ...training.objective import DrawnObjective
from ...training.progress import OnTick, Progress
from ..objective import PersonObjective
from ..photos import Pairs, Photos
from .adapter import DualPivotAdapter, WeightDeltas
from .class_pictures import draw_class
from .data import PivotPairs
from .header import DualPivotHeader
from .learning import LearnedWeights
from .settings import DualPivotTraining

DEGRADATION = "diffbir"
"""What the published recipe trains on. Small restorers have degradations of their own."""


class Pivot(DrawnObjective, PersonObjective[DualPivotAdapter]):
    """One of the two.

    Attributes:
        text: what was learned of the generator before.
        learning: the weights that it trains.
        contexts: of the person's prompt and of the class's [2, L, D].
        generic: the pictures that the settings name; None where they name none, or none are used.
    """

    pivot: ClassVar[str]
    text: WeightDeltas = MappingProxyType({})
    learning: LearnedWeights
    settings: DualPivotTraining

    def __init__(self, restorer: Restorer, photos: Photos, settings: DualPivotTraining) -> None:
        super().__init__()
        if restorer.text is None:
            raise ValueError("Dual-Pivot Tuning needs the restorer's text tower: load it with text=True.")
        self.restorer, self.photos, self.settings = restorer, photos, settings
        self.stage = f"{self.pivot}_pivot"
        self.pivots = settings.pivots_of(restorer.unet)
        # Looked for before anything takes long, also where another pivot comes first.
        named = settings.pictures and settings.data != "personal" and self.pivots != "text"
        self.generic = find_pictures([settings.pictures]) if named else None
        restorer.unet.requires_grad_(False)
        # Blocks are computed twice where their features would not fit beside the weights.
        restorer.unet.checkpoint_gradients(restorer.header.image_size >= LARGE)
        with torch.no_grad():
            contexts = [restorer.context(prompt) for prompt in (settings.prompt, settings.class_prompt)]
        self.contexts: Tensor
        self.register_buffer("contexts", torch.cat(contexts).detach(), persistent=False)

    def loop(self) -> LoopSettings:
        width = self.restorer.unet.config.model_channels
        return replace(super().loop(), lr=self.rate(width), decay=False)

    @abstractmethod
    def rate(self, width: int) -> float:
        """Learning rate for a U-Net of `width` channels."""

    def changes(self) -> Changes:
        """Of an evaluation: what is being learned, and what was learned before."""
        return Changes(weights={name: [c] for name, c in self.text.items()} | self.learning.changes())

    @abstractmethod
    def deltas(self) -> tuple[WeightDeltas, WeightDeltas]:
        """What was learned of the generator, and of its control network."""

    def pairs(self, photos: Photos, pool: int, batch: int, seed: int, p_hq: float, on_tick: OnTick) -> Pairs:
        return PivotPairs(self.restorer, photos, self.degradation(), p_hq, pool, batch, seed, on_tick)

    def degradation(self) -> RandomDegradation:
        size = self.restorer.header.image_size
        return random_degradation(self.settings.degradation or (DEGRADATION if size >= LARGE else ""), size)

    def class_files(self, shared: Path, on_progress: Callable[[Progress], None]) -> PictureFiles:
        s = self.settings
        return find_pictures(
            draw_class(self.restorer, s.class_prompt, s.class_pictures, s.seed, shared, on_progress)
        )

    def adapter(self, run_key: str, steps: int, losses: Sequence[float]) -> DualPivotAdapter:
        s, (text, model) = self.settings, self.deltas()
        fields: Mapping[str, Any] = {
            name: getattr(s, name)
            for name in (
                "token", "class_word", "prompt", "class_prompt", "text_weights", "model_weights", "rank",
                "prior_weight", "data",
            )
        }  # fmt: skip
        header = DualPivotHeader(
            base=self.restorer.fingerprint,
            prediction_type=self.restorer.header.prediction_type,
            run_key=run_key,
            steps=steps,
            losses=list(losses),
            training=s.record(),
            pivots="both" if text and model else "text" if text else "model",
            steps_text=min(steps, s.text_steps(self.pivots)),
            **fields,
        )
        made = DualPivotAdapter(header, self.contexts[:1], text, model)
        return made.to("cpu", torch.float32)
