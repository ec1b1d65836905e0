"""What TrainDualPivot's inputs mean for a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import folder_paths

from ...pfstorer_core.models import UNet
from ...pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining
from ...pfstorer_core.restorers.fingerprint import fingerprint
from .model import RestorerModel
from .training import settings_of

DEFAULTS = DualPivotTraining()
AUTO = "auto"
CLASS = "class pictures"
"""The choice of no folder."""


def generic_folders() -> list[str]:
    return [CLASS, *folder_paths.get_input_subfolders()]


def dual_pivot_settings(given: Mapping[str, Any], restorer: RestorerModel) -> DualPivotTraining:
    """Of the node's inputs.

    Raises:
        ValueError: a model pivot for a MODEL without a control network; or see `DualPivotTraining`.
    """
    unet = cast(UNet, restorer.diffusion_model)
    asked = given.get("pivots", AUTO)
    pivots = DualPivotTraining(pivots="" if asked == AUTO else asked).pivots_of(unet, "this MODEL")
    text, model = given["text_steps"], given["model_steps"]
    folder, cleaner = given.get("pictures", CLASS), given.get("cleaner")
    inputs = {
        **given,
        "pivots": pivots,
        "steps": {"text": text, "model": model}.get(pivots, text + model),
        "steps_text": text,
        "pictures": "" if folder == CLASS else str(Path(folder_paths.get_input_directory()) / folder),
        "cleaner": "" if cleaner is None else fingerprint(cleaner.model.state_dict()),
    }
    found = settings_of(DualPivotTraining.method, inputs)
    assert isinstance(found, DualPivotTraining)
    return found
