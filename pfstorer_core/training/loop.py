"""The loop that every training shares: seeded steps, a cosine rate, an average of the weights, resuming.

The randomness of step k comes from (seed, k) alone, so that a training that was stopped anywhere
goes on with exactly the losses that it would have had.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..files import written
from ..progress import Progress, silent

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class LoopSettings:
    """How to optimise.

    Attributes:
        lr: peak learning rate of AdamW; warms up linearly, then falls to `lr`/20 along a cosine.
        ema: decay of the average of the weights, which is what the training returns.
        bf16: bf16 autocast for the arithmetic; weights stay fp32.
        save_every: steps between checkpoints.
    """

    steps: int
    lr: float
    warmup: int = 100
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 0.998
    clip: float = 1.0
    seed: int = 0
    bf16: bool = True
    save_every: int = 200


def learning_rate(settings: LoopSettings, step: int) -> float:
    warm = min(1.0, (step + 1) / settings.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return settings.lr * warm * (0.05 + 0.95 * cosine)


def fit(
    stage: str,
    module: Module,
    loss: Callable[[np.random.Generator], Tensor],
    settings: LoopSettings,
    checkpoint: Path,
    on_progress: Callable[[Progress], None] = silent,
) -> Module:
    """Train the parameters of `module` that require gradients; resumes from `checkpoint` where it exists.

    Args:
        loss: called once a step with the step's own random generator; returns a scalar.
    Returns:
        A copy of `module` with the averaged weights.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
    )
    average = copy.deepcopy(module).requires_grad_(False)
    first = _resume(checkpoint, module, average, optimizer)
    device = next(module.parameters()).device.type

    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        with torch.autocast(device, torch.bfloat16, enabled=settings.bf16):
            value = loss(np.random.default_rng([settings.seed, step]))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimizer.step()
        _follow(average, module, min(settings.ema, (step + 1) / (step + 10)))
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            _save(checkpoint, module, average, optimizer, step + 1)
        on_progress(Progress(stage, step + 1, settings.steps, value.item()))
    return average


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    for a, p in zip(average.parameters(), module.parameters(), strict=True):
        a.lerp_(p, 1 - decay)


def _save(
    path: Path, module: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int
) -> None:
    state: dict[str, Any] = {
        "module": module.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    with written(path) as temporary:
        torch.save(state, temporary)


def _resume(path: Path, module: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    module.load_state_dict(state["module"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]
