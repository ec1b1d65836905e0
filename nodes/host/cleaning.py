"""DiffBIR's first stage in the host: any native UPSCALE_MODEL, or the cleaner that came with a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...pfstorer_core.checkpoints.header import RestorerHeader
from ...pfstorer_core.imaging.tile_setting import CLEANED, TileSetting, TileSize
from ...pfstorer_core.imaging.tiled_autoencoder import pixel_grid
from ...pfstorer_core.restorers.diffbir.cleaner import CELL, Cleaner

KEY = "pfstorer.cleaner"
"""Of what travels with a MODEL and its clones."""
OWN = TileSize(CLEANED, -1)
"""In pixels: the tiles where nobody chooses."""
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


def cleaner_weights(cleaner: Any, keys: Sequence[str]) -> dict[str, Tensor]:
    """The weights of such an UPSCALE_MODEL under the keys of its file: spandrel has another one for the first
    convolution, which is the second layer of its module in the file."""
    weights = cleaner.model.state_dict()
    return {key: weights[key if key in weights else key.replace(".1.", ".", 1)] for key in keys}


def cleaner_of(model: ModelPatcher, chosen: Any | None, header: RestorerHeader | None = None) -> Any | None:
    """The UPSCALE_MODEL that cleans pictures for a MODEL, by this header in place of its own: the one that
    was chosen, else its file's; None where it would have no part."""
    header = header or model.model.header
    cleaner = chosen if chosen is not None else model.get_attachment(KEY)
    if not header.cleans:
        return None
    if cleaner is None and header.start == "cleaned":
        logging.getLogger(__name__).warning(
            "No cleaner: sampling starts from the bad picture. Connect a SwinIR by Load Upscale Model."
        )
    if cleaner is None and header.condition == "control":
        logging.getLogger(__name__).warning(
            "No cleaner: the picture's noise and blur are taken for what it shows. DiffBIR's control network "
            "expects a cleaned picture: connect a SwinIR by Load Upscale Model (face_swinir_v1.ckpt)."
        )
    return cleaner


def without_host(cleaner: Any) -> Cleaner:
    """An UPSCALE_MODEL as the core knows cleaners."""
    return Cleaner(partial(clean, cleaner), 1, torch.device("cpu"), torch.float32)


def clean(
    cleaner: Any | None,
    pictures: Tensor,
    tiles: TileSize = OWN,
    on_tile: Callable[[], object] = lambda: None,
) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] without their damage, about [0, 1]; as they are without a cleaner.
    Large ones in tiles of so many pixels, smaller ones where memory is short."""
    if cleaner is None:
        return pictures
    tile, overlap = tiles
    side = min(tile, max(pictures.shape[-2:]))
    needed = MEMORY_PER_PIXEL * side**2 * max(cleaner.scale, 1) * pictures.element_size()
    mm.load_models_gpu([cleaner.patcher], memory_required=needed + pictures.nbytes)
    network = _cleaner(cleaner)
    while True:
        try:
            return network.clean(pictures, tile, overlap, on_tile)
        except Exception as error:
            mm.raise_non_oom(error)
            if tile <= LEAST_TILE:
                raise
            tile, overlap = tile // 2, overlap // 2
            mm.soft_empty_cache()


def pixel_tiles(
    header: RestorerHeader, cleaner: Any | None, pictures: Tensor, setting: TileSetting
) -> tuple[int, int]:
    """How many tiles pictures [B, 3, H, W] are before they are sampled, in cleaner and VAE, and after it."""
    size = (pictures.shape[-2], pictures.shape[-1])
    cleaned = 0 if cleaner is None else len(_cleaner(cleaner).grid(*size, *setting.cleaner))
    coded = len(pixel_grid(pictures, setting.factor, *setting.autoencoder))
    encoded = coded * (1 if cleaner is None or header.sees_cleaned else 2)
    return len(pictures) * cleaned + encoded, len(pictures) * coded


def _cleaner(cleaner: Any) -> Cleaner:
    """An UPSCALE_MODEL for the core. What networks leave outside of [0, 1] spandrel cuts off; of a SwinIR it
    stays until the end, as in DiffBIR and in the core."""
    multiple = max(CELL, cleaner.size_requirements.multiple_of)
    network = cleaner.model if cleaner.architecture.id == "SwinIR" else cleaner
    return Cleaner(lambda piece: network(piece).clone(), multiple, cleaner.patcher.load_device, torch.float32)
