"""A training inside the host: its settings, its restorer, and what is shown of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ...pfstorer_core.personalization.base import Adapter
from ...pfstorer_core.personalization.dual_pivot.class_pictures import FOLDER as CLASS_PICTURES
from ...pfstorer_core.personalization.dual_pivot.header import DualPivotHeader
from ...pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining
from ...pfstorer_core.personalization.learn import learn
from ...pfstorer_core.personalization.lora.train import LoRATraining
from ...pfstorer_core.personalization.objective import STAGE, PersonTraining
from ...pfstorer_core.personalization.pfstorer.settings import AdapterTraining
from ...pfstorer_core.personalization.pfstorer.start import find_start
from ...pfstorer_core.personalization.photos import aligned_side
from ...pfstorer_core.personalization.registry import methods
from ...pfstorer_core.personalization.training import default_settings
from ...pfstorer_core.restorers.base import Restorer
from ...pfstorer_core.restorers.files import load_restorer, open_restorer
from ...pfstorer_core.restorers.fingerprint import fingerprint, same_base
from ...pfstorer_core.training.formats import calculates_bf16, training_dtype
from ...pfstorer_core.training.progress import Progress
from .adapters import IdentityAdapterType
from .cleaning import cleaner_of, without_host
from .conditioning import restorer_of
from .embedding import squares_embedded
from .folders import adapter_file
from .images import to_image
from .model import RestorerModel
from .notes import show_notes, show_text
from .photos import Autogrown, gather_photos

DEFAULTS = AdapterTraining()
RANK = LoRATraining().rank
OF_THEIR_OWN = {DualPivotTraining.method: "TrainDualPivot"}
"""Methods that are learned by a node of their own, whose name it is."""
PREVIEW_SIDE = 512


def trained_methods() -> list[str]:
    """The methods that TrainIdentityAdapter learns, the first of them the paper's."""
    found = [name for name, method in methods().items() if method.settings and name not in OF_THEIR_OWN]
    return sorted(found, key=lambda name: (name != DEFAULTS.method, name))


def settings(given: Mapping[str, Any]) -> PersonTraining[Any]:
    """Of the inputs of TrainIdentityAdapter; what the method has no use for is left out."""
    sites = tuple(site.strip() for site in given.get("sites", "").split(",") if site.strip())
    return settings_of(given.get("method", DEFAULTS.method), {**given, "sites": sites})


def settings_of(method: str, given: Mapping[str, Any]) -> PersonTraining[Any]:
    """Of a node's inputs, by the names of a method's settings; 0 leaves rates and previews to it."""
    kind = type(default_settings(method))
    own = {field.name for field in fields(kind)}
    changed = {name: given.get(name) or None for name in ("lr", "gamma_lr", "lr_model", "preview_every")}
    changed["bf16"] = calculates_bf16(mm.get_torch_device())
    return kind(**{key: value for key, value in {**given, **changed}.items() if key in own})


def learned_outputs() -> list[Any]:
    """Of a node that learns a person."""
    return [
        IdentityAdapterType.Output(
            display_name="identity_adapter",
            tooltip="The person. The file is in models/identity_adapters already.",
        ),
        io.Custom("LOSS_MAP").Output(
            display_name="loss", tooltip="The loss of each step: for Plot Loss Graph."
        ),
        io.Image.Output(
            display_name="preview",
            tooltip="The crops that are learned from (framed in orange where no face was found), and below "
            "them a bad picture, base, personalized, photo.",
        ),
    ]


def learn_person(
    node: str,
    given: Mapping[str, Any],
    chosen: PersonTraining[Any],
    photos: Autogrown,
    faces: Autogrown | None,
) -> io.NodeOutput:
    """Learn a person, or find them, and show it on the node of that id.

    Args:
        given: its inputs model, name, resume and embed_face, and cleaner and graphs where it has them.
    """
    model = given["model"]
    restorer, file = restorer_of(model, given["vae"]), adapter_file(given["name"])
    person = gather_photos(photos, faces or {})
    source, bar = model.model.source, ProgressBar(chosen.steps)
    found = find_start(() if source is None else (source.path, *source.addons), restorer.fingerprint, chosen)

    def show(progress: Progress) -> None:
        show_text(node, time_left(progress))
        preview = None if progress.picture is None else ("JPEG", thumbnail(progress.picture), PREVIEW_SIDE)
        bar.update_absolute(progress.step, progress.steps, preview)
        mm.throw_exception_if_processing_interrupted()

    # What gradients flow through must not be made in the host's inference mode.
    with torch.inference_mode(False), torch.enable_grad():
        learned = learn(
            lambda: training_copy(model, given.get("cleaner")), restorer.fingerprint,
            [picture.clone() for picture in person.photos], chosen, person.boxes, file,
            given.get("resume") == "restart", show, mm.throw_exception_if_processing_interrupted,
            aligned_side(restorer.header), squares_embedded if given.get("embed_face", True) else None,
            found.start, given.get("graphs", False),
        )  # fmt: skip
    notes = show_notes(node, [*learned.notes, *found.notes, *person.notes])
    return io.NodeOutput(learned.adapter, loss_map(learned.adapter), to_image(learned.sheet), ui=notes)


def training_copy(model: ModelPatcher, cleaner: Any = None) -> Restorer:
    """The restorer of a MODEL from its file, with weights of its own that gradients may pass through.

    Args:
        cleaner: an UPSCALE_MODEL instead of the file's own cleaner.
    Raises:
        ValueError: the file is not the one any more that the MODEL was loaded from.
    """
    if model.patches:
        logging.getLogger(__name__).warning(
            "LoRAs of the MODEL are left out: an adapter learns on the base alone."
        )
    cleaner_of(model, cleaner)  # warns where there is none
    assert isinstance(model.model, RestorerModel)
    source, device = model.model.source, mm.get_torch_device()
    assert source is not None
    if not same_base(fingerprint(open_restorer(*source).unet), model.model.fingerprint):
        raise ValueError(
            f"{Path(source.path).name} is not the file any more that this MODEL was loaded from, and what is "
            "learned on one does not fit the other: queue again, so that Load Base Restorer loads it anew."
        )
    mm.unload_all_models()
    mm.soft_empty_cache()
    restorer = load_restorer(
        source.path, *source.addons, device=device, dtype=training_dtype(model.model.get_dtype(), device),
        prediction_type=source.prediction_type, variant=source.variant, text=True,
    )  # fmt: skip
    return restorer if cleaner is None else replace(restorer, cleaner=without_host(cleaner))


def loss_map(adapter: Adapter) -> dict[str, list[float]]:
    """All losses, and of Dual-Pivot those of each pivot, too.

    The host's graph divides by the range of the losses, so that there have to be two different ones.
    """
    header, losses, parts = adapter.header, list(adapter.header.losses) or [0.0], dict[str, list[float]]()
    if isinstance(header, DualPivotHeader):
        parts = {"text_pivot": losses[: header.steps_text], "model_pivot": losses[header.steps_text :]}
    if len(set(losses)) < 2:
        losses += [losses[-1] + 1e-6]
    return {"loss": losses, **parts}


def time_left(progress: Progress) -> str:
    """What the node shows below its name."""
    if progress.stage == CLASS_PICTURES:
        return f"{progress.step} of {progress.steps} class pictures"
    stage = "" if progress.stage == STAGE else f"{progress.stage.replace('_', ' ').capitalize()}: "
    done = f"{stage}{progress.step} of {progress.steps} steps"
    if progress.seconds_left is None:
        return done
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    return f"{done}, about {minutes} min {seconds:02} s left"


def thumbnail(picture: Tensor) -> Image.Image:
    return Image.fromarray((to_image(picture)[0].cpu().numpy() * 255).round().astype("uint8"))
