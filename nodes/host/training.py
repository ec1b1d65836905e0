"""A training inside the host: its settings, its restorer, and what is shown of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import comfy.model_management as mm
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from ...pfstorer_core.personalization.base import Adapter
from ...pfstorer_core.personalization.lora.train import LoRATraining
from ...pfstorer_core.personalization.objective import PersonTraining
from ...pfstorer_core.personalization.pfstorer.train import AdapterTraining
from ...pfstorer_core.personalization.registry import methods
from ...pfstorer_core.personalization.training import default_settings
from ...pfstorer_core.restorers.base import Restorer
from ...pfstorer_core.restorers.files import load_restorer, open_restorer
from ...pfstorer_core.restorers.fingerprint import fingerprint, same_base
from ...pfstorer_core.training.formats import calculates_bf16, training_dtype
from ...pfstorer_core.training.progress import Progress
from .images import to_image
from .model import RestorerModel

DEFAULTS = AdapterTraining()
RANK = LoRATraining().rank


def trained_methods() -> list[str]:
    """The methods that can be learned, the first of them the paper's."""
    found = [name for name, method in methods().items() if method.settings is not None]
    return sorted(found, key=lambda name: (name != DEFAULTS.method, name))


def settings(given: Mapping[str, Any]) -> PersonTraining[Any]:
    """Of the node's inputs; what the method has no use for is left out."""
    kind = type(default_settings(given.get("method", DEFAULTS.method)))
    own = {field.name for field in fields(kind)}
    sites = tuple(site.strip() for site in given.get("sites", "").split(",") if site.strip())
    changed = {"sites": sites, "bf16": calculates_bf16(mm.get_torch_device())}
    changed |= {name: given.get(name) or None for name in ("lr", "gamma_lr", "preview_every")}
    return kind(**{key: value for key, value in {**given, **changed}.items() if key in own})


def training_copy(model: ModelPatcher) -> Restorer:
    """The restorer of a MODEL from its file, with weights of its own that gradients may pass through.

    Raises:
        ValueError: the file is not the one any more that the MODEL was loaded from.
    """
    if model.patches:
        logging.getLogger(__name__).warning(
            "LoRAs of the MODEL are left out: an adapter learns on the base alone."
        )
    assert isinstance(model.model, RestorerModel)
    source, device = model.model.source, mm.get_torch_device()
    assert source is not None
    if not same_base(fingerprint(open_restorer(*source).unet), model.model.fingerprint):
        raise ValueError(
            f"{Path(source.path).name} is not the file any more that this MODEL was loaded from, and what is "
            "learned on the one does not fit the other: queue again, so that LoadBaseRestorer loads it anew."
        )
    mm.unload_all_models()
    mm.soft_empty_cache()
    return load_restorer(
        source.path, *source.addons, device=device, dtype=training_dtype(model.model.get_dtype(), device),
        prediction_type=source.prediction_type, variant=source.variant, text=True,
    )  # fmt: skip


def loss_map(adapter: Adapter) -> dict[str, list[float]]:
    """The host's graph divides by the range of the losses, so that there have to be two different ones."""
    losses = list(adapter.header.losses)
    if len(set(losses)) < 2:
        losses += [(losses or [0.0])[-1] + 1e-6]
    return {"loss": losses}


def time_left(progress: Progress) -> str:
    """What the node shows below its name."""
    done = f"{progress.step} of {progress.steps} steps"
    if progress.seconds_left is None:
        return done
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    return f"{done}, about {minutes} min {seconds:02} s left"


def thumbnail(picture: Tensor) -> Image.Image:
    return Image.fromarray((to_image(picture)[0].cpu().numpy() * 255).round().astype("uint8"))
