"""Training of a control network: DiffBIR's second stage, on a generator that stays as it is."""

from __future__ import annotations

from ...training.loop import LoopSettings
from ..stablesr.train import BaseTraining

PUBLISHED = LoopSettings(
    steps=25_000,
    lr=1e-4,
    batch=192,
    warmup=0,
    decay=False,
    betas=(0.9, 0.999),
    weight_decay=0.01,
    ema=0.0,
    clip=0.0,
)
"""How DiffBIR's was trained: neither an average of the weights nor a limit of the gradients."""


def control_training(
    empty_prompt: float | None = None,
    p_hq: float = 0.0,
    shift: float = 1.0,
    checkpointing: bool = False,
    loop: LoopSettings = PUBLISHED,
) -> BaseTraining:
    """Settings of `train_base` for a control network.

    Args:
        empty_prompt: share of samples for which the U-Net reads the empty prompt, too; None for all of them.
    Raises:
        ValueError: see `BaseTraining`.
    """
    return BaseTraining(
        "control",
        empty_prompt=empty_prompt,
        p_hq=p_hq,
        shift=shift,
        checkpointing=checkpointing,
        loop=loop,
    )
