"""GammaSheet."""

from __future__ import annotations

import re
from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted as stop
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..pfstorer_core.degradation.sheet import sheet_of
from ..pfstorer_core.imaging.resizing import resize
from ..pfstorer_core.personalization.base import Adapter
from ..pfstorer_core.personalization.identity import MAX_GAMMA
from .apply import ApplyPersonalization
from .host.adapters import IdentityAdapterType
from .host.images import from_image, to_image
from .sample import TiledSRSampler

MOST = 12
"""Gammas at once: what a sheet shows side by side."""
CELL = 512
"""Longest side of a picture on the sheet."""


class GammaSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        sampler = TiledSRSampler.define_schema().inputs
        return io.Schema(
            node_id="GammaSheet",
            display_name="Gamma Sheet",
            category="PFStorer",
            description="Restores a picture as a person at several strengths, with all else the same: to "
            "choose gamma by eye.",
            search_aliases=["strength", "lora strength", "compare", "grid", "xy plot", "contact sheet",
                            "likeness", "pfstorer"],
            inputs=[
                io.Model.Input("model", tooltip="From Load Base Restorer, without the person."),
                IdentityAdapterType.Input("identity_adapter",
                                          tooltip="From Load Identity Adapter, or the node that learned it."),
                io.String.Input("gammas", default="0, 0.5, 1, 1.5",
                                tooltip="Strengths, with commas between: 0 is the base restorer, 1 what was "
                                f"learned, {MAX_GAMMA:g} the most."),
                *(given for given in sampler if given.id != "model"),
            ],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="The bad picture and all results, with "
                                "captions; a row for each picture of a batch."),
                io.Image.Output(display_name="pictures", tooltip="The results alone, gamma by gamma: one "
                                "batch."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: ModelPatcher, identity_adapter: Adapter, gammas: str, image: Tensor, **sampling: Any
    ) -> io.NodeOutput:
        chosen = gammas_of(gammas)
        made = []
        for number, gamma in enumerate(chosen):
            [person] = ApplyPersonalization.execute(model, identity_adapter, gamma).args
            part = number, len(chosen)
            made.append(TiledSRSampler.execute(person, image=image, part=part, **sampling).args[0])
        size = made[0].shape[1], made[0].shape[2]
        columns = {"bad picture": resize(from_image(image), size, stop).clamp(0, 1)}
        for gamma, result in zip(chosen, made, strict=True):
            columns[caption(gamma)] = from_image(result).clamp(0, 1)
        rows = range(len(image))
        panels = [(text, column[row : row + 1]) for row in rows for text, column in columns.items()]
        sheet = sheet_of(panels, min(CELL, max(size)), len(columns))
        return io.NodeOutput(to_image(sheet), torch.cat(made))


def gammas_of(text: str) -> list[float]:
    """The numbers in a text, each once.

    Raises:
        ValueError: none, too many, or one that is no strength; says which.
    """
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    try:
        found = list(dict.fromkeys(map(float, words)))
    except ValueError:
        raise ValueError(
            f"gammas must be numbers with commas between, such as 0, 0.5, 1: got {text!r}."
        ) from None
    wrong = [gamma for gamma in found if not 0 <= gamma <= MAX_GAMMA]
    if wrong:
        raise ValueError(f"Each of gammas must be from 0 to {MAX_GAMMA:g}, got {wrong[0]:g}.")
    if not 0 < len(found) <= MOST:
        raise ValueError(f"Give 1 to {MOST} gammas, with commas between, got {len(found)}.")
    return found


def caption(gamma: float) -> str:
    return f"gamma {gamma:g}" if gamma else "gamma 0: the base"
