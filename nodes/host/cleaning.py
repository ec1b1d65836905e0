"""DiffBIR's first stage in the host: any native UPSCALE_MODEL, or the cleaner that came with a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...pfstorer_core.restorers.diffbir.cleaner import CELL, Cleaner

KEY = "pfstorer.cleaner"
"""Of what travels with a MODEL and its clones."""
TILE = 512
"""Side in pixels of the tiles of larger pictures: what cleaners were trained on, and the host takes."""
LEAST_TILE = 128
MEMORY_PER_PIXEL = 384 * 3
"""Values that a cleaner keeps for each pixel of a tile: the estimate of the host's ImageUpscaleWithModel."""


def build_cleaner(weights: Mapping[str, Tensor]) -> Any:
    """The SwinIR of a full DiffBIR file as an UPSCALE_MODEL, as the host's UpscaleModelLoader makes them."""
    from spandrel import ModelLoader

    cleaner: Any = ModelLoader().load_from_state_dict({k: v.float() for k, v in weights.items()}).eval()
    cleaner.patcher = comfy.model_patcher.CoreModelPatcher(
        cleaner.model, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device()
    )
    return cleaner


def cleaner_of(model: ModelPatcher, chosen: Any | None) -> Any | None:
    """The UPSCALE_MODEL that cleans pictures for a MODEL: the one that was chosen, else its file's own."""
    cleaner = chosen if chosen is not None else model.get_attachment(KEY)
    if cleaner is None and model.model.header.condition == "control":
        logging.getLogger(__name__).warning(
            "No cleaner: the picture's noise and blur are taken for what it shows. DiffBIR's control network "
            "expects a cleaned picture: connect a SwinIR by Load Upscale Model (face_swinir_v1.ckpt)."
        )
    return cleaner


def clean(cleaner: Any | None, pictures: Tensor, on_tile: Callable[[], object] = lambda: None) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] without their damage, about [0, 1]; as they are without a cleaner.
    Large ones in tiles, smaller ones where memory is short."""
    if cleaner is None:
        return pictures
    device, tile = cleaner.patcher.load_device, TILE
    multiple = max(CELL, cleaner.size_requirements.multiple_of)
    needed = MEMORY_PER_PIXEL * TILE**2 * max(cleaner.scale, 1) * pictures.element_size()
    mm.load_models_gpu([cleaner.patcher], memory_required=needed + pictures.nbytes)
    network = Cleaner(lambda piece: cleaner(piece).clone(), multiple, device, torch.float32)
    while True:
        try:
            large = max(pictures.shape[-2:]) > tile
            return network.clean(pictures, tile if large else 0, on_tile=on_tile)
        except Exception as error:
            mm.raise_non_oom(error)
            if tile <= LEAST_TILE:
                raise
            tile //= 2
            mm.soft_empty_cache()
