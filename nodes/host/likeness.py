"""Likeness of restored pictures to a person's photos, as it comes into a node and goes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...pfstorer_core.imaging.faces import face_finder
from ...pfstorer_core.recognition.likeness import shown_alike
from ...pfstorer_core.recognition.shown import Find, Shown, shown_in
from .images import from_image, from_images
from .recognition import HostedRecognizer


def photos_of(photos: Mapping[str, Tensor]) -> list[Shown]:
    """The face in each photo of growing inputs."""
    find = _finder()
    return [shown_in(photo.cpu(), find) for photo in from_images(photos, "photos")]


def pictures_of(given: Mapping[str, Any]) -> dict[str, list[Shown]]:
    """The face in each of the pictures of the same, from the worst to the best: batches by the names of their
    inputs, None for what is not connected.

    Raises:
        ValueError: batches of different sizes.
    """
    batches = {
        name: from_image(batch, name).cpu().split(1) for name, batch in given.items() if batch is not None
    }
    if len({len(batch) for batch in batches.values()}) > 1:
        listed = ", ".join(f"{name} {len(batch)}" for name, batch in batches.items())
        raise ValueError(f"The inputs hold different numbers of pictures ({listed}): give all of the same.")
    find = _finder()
    rows = [shown_alike(row, find) for row in zip(*batches.values(), strict=True)]
    return dict(zip(batches, map(list, zip(*rows, strict=True)), strict=True))


def judged_by_its_guide(model: ModelPatcher | None, recognizers: Sequence[HostedRecognizer]) -> list[str]:
    """A warning for each recogniser that a MODEL is guided by."""
    if model is None:
        return []
    guides = [patcher.model for patcher in model.get_nested_additional_models()]
    return [
        f"The MODEL is guided by {one.name}, so what {one.name} says of the result is no judgement: believe "
        "another recogniser."
        for one in recognizers
        if any(_same(one.recognizer.network, guide) for guide in guides)
    ]


def _finder() -> Find:
    return face_finder(on_tick=mm.throw_exception_if_processing_interrupted)


def _same(network: nn.Module, other: Any) -> bool:
    if network is other:
        return True
    if type(network) is not type(other):
        return False
    pairs = zip(network.parameters(), other.parameters(), strict=False)
    return all(a.shape == b.shape and torch.equal(a.cpu(), b.cpu()) for a, b in pairs)
