"""Dual-Pivot Tuning among the methods."""

from __future__ import annotations

from ...restorers.base import Restorer
from ..photos import Photos
from ..registry import Method
from .adapter import load
from .model_pivot import ModelPivot
from .pivot import Pivot
from .settings import DualPivotTraining
from .text_pivot import TextPivot


def first_pivot(restorer: Restorer, photos: Photos, settings: DualPivotTraining) -> Pivot:
    """What is learned first; the other one follows by itself."""
    if settings.pivots_of(restorer.unet) == "model":
        return ModelPivot(restorer, photos, settings, {})
    return TextPivot(restorer, photos, settings)


METHOD = Method("dual_pivot", "Dual-Pivot", load, DualPivotTraining, first_pivot)
