"""How files are verified, and what a check says where it cannot be made."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..diffusion.schedule import PredictionType


class NotApplicable(Exception):
    """Of a check that says nothing of these files, or cannot be made here; the message says why."""

    __module__ = "builtins"


@dataclass(frozen=True)
class Settings:
    """How the files are verified.

    Attributes:
        dtype: of weights and arithmetic of what is restored.
        steps: of sampling.
        quick: no network but the text tower is used.
        prediction_type, variant: see `open_restorer`.
    """

    device: torch.device
    dtype: torch.dtype
    steps: int
    quick: bool = False
    prediction_type: PredictionType | None = None
    variant: str | None = None
