"""How a training optimises: its settings, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

FREE = (
    "steps", "finish", "accumulate", "save_every", "save_seconds", "validate_every", "validate_at", "workers",
)  # fmt: skip
"""Settings that a training may be resumed with other values of."""
LATER = ("muon",)
"""Settings that states of before do not have, which have been trained with 0."""
ENDLESS = 10**9
"""Steps of a training that goes on until it is stopped."""


@dataclass(frozen=True)
class LoopSettings:
    """How to optimise.

    Attributes:
        lr: peak learning rate of AdamW; warms up linearly, then falls to `lr`/20 along a cosine, or
            stays, without `decay`.
        finish: so many steps at the end let the rate fall to nothing along a cosine.
        muon: peak learning rate of Muon, which steps the matrices that an objective names instead of AdamW;
            0: none.
        batch: samples a step, over all processes; `accumulate` parts of them run one after the other.
        ema: decay of the average of the weights, which is what the training returns.
        clip: norm that the gradients of all together are scaled down to; 0: they stay as they are.
        bf16: bf16 autocast for the arithmetic; trained weights stay fp32.
        save_every, validate_every: steps between checkpoints, and between looks at samples that were
            held back (0: none); both are also done after the last step.
        save_seconds: a state is saved besides when the last one is older, unless that takes much of the time.
        validate_at: further steps after which to look, where there are any looks at all.
        workers: processes that prepare samples, for each process that trains.
    """

    steps: int
    lr: float
    batch: int = 16
    accumulate: int = 1
    warmup: int = 100
    decay: bool = True
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 0.998
    clip: float = 1.0
    seed: int = 0
    bf16: bool = True
    save_every: int = 200
    save_seconds: float = 60.0
    validate_every: int = 0
    validate_at: tuple[int, ...] = ()
    workers: int = 0
    finish: int = 0
    muon: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "lr", "batch", "accumulate", "save_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        for name in ("finish", "muon"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or above, got {getattr(self, name)}.")

    def binding(self) -> dict[str, Any]:
        """What a resumed training has to share."""
        return {k: v for k, v in asdict(self).items() if k not in FREE and (v or k not in LATER)}

    def saves(self, step: int) -> bool:
        """Whether the state after `step` steps is saved, however long ago the last one was."""
        return step % self.save_every == 0 or step == self.steps

    def looks(self, step: int) -> bool:
        """Whether samples are looked at after `step` steps."""
        if not self.validate_every:
            return False
        return step in self.validate_at or (
            step > 0 and (step % self.validate_every == 0 or step == self.steps)
        )


def learning_rate(settings: LoopSettings, step: int) -> float:
    warm = min(1.0, (step + 1) / max(1, settings.warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps)) if settings.decay else 1.0
    done = step - (settings.steps - settings.finish)
    fall = 0.5 * (1 + math.cos(math.pi * (done + 1) / (settings.finish + 1))) if done >= 0 else 1.0
    return settings.lr * warm * (0.05 + 0.95 * cosine) * fall


def finishing(history: Sequence[tuple[float, float]], settings: LoopSettings, finish: int) -> LoopSettings:
    """Settings by which a training without `decay` ends, so many steps after the rate began to fall.

    Args:
        history: loss and rate of every step so far: those of a finish that was stopped count.
    """
    fallen = 0
    for _, rate in reversed(history[settings.warmup :]):
        if rate >= settings.lr * (1 - 1e-12):
            break
        fallen += 1
    return replace(settings, steps=len(history) - fallen + finish, finish=finish, decay=False)
