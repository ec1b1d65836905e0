"""Pixels through the VAE: large pictures tile by tile, and CFW's fidelity."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor

from ...pfstorer_core.imaging.tile_setting import TileSize
from ...pfstorer_core.imaging.tiled_autoencoder import TILE, decode_tiled, encode_tiled

OWN = TileSize(TILE, -1)
"""In latent cells: the tiles where nobody chooses."""
LEAST_TILE = 32
"""Side in latent cells of the smallest tile that is tried where memory is short."""


def check_fidelity(vae: Any, fidelity: float) -> None:
    """Raise ValueError where the VAE has no CFW for a fidelity above 0."""
    own = getattr(vae.first_stage_model, "check_fidelity", None)
    if own is not None:
        own(fidelity)
    elif fidelity:
        raise ValueError(
            f"Fidelity {fidelity:g} needs a VAE with CFW, and this one is ComfyUI's own: connect the VAE of "
            "Load Base Restorer, or set fidelity to 0."
        )


def encode(
    vae: Any, pictures: Tensor, tiles: TileSize = OWN, on_tile: Callable[[], object] = lambda: None
) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1], sides multiples of the VAE's factor -> unscaled latents."""
    return encode_tiled(
        lambda piece: _finite(vae, vae.encode(piece.movedim(1, -1)), "encoding"),
        pictures,
        vae.downscale_ratio,
        tile=tiles.tile,
        overlap=tiles.overlap,
        on_tile=on_tile,
    )


def decode(
    vae: Any,
    samples: Tensor,
    lq: Tensor,
    fidelity: float,
    tiles: TileSize = OWN,
    on_tile: Callable[[], object] = lambda: None,
    quantize: bool = True,
) -> Tensor:
    """Unscaled latents -> pictures [B, 3, H, W] in [0, 1], fp32, one at a time.

    Args:
        lq: the bad pictures, of the size of the result, for CFW.
        quantize: whether a VQ autoencoder of ours brings latents to its codebook.
    Raises:
        The host's out-of-memory error where, with fidelity, not even a small tile fits.
        ValueError: the VAE overflowed.
    """

    def one(latent: Tensor, picture: Tensor) -> Tensor:
        options: dict[str, Any] = {}
        if fidelity:
            options |= {"lq": (2 * picture - 1).to(vae.device, vae.vae_dtype), "fidelity": fidelity}
        options |= {} if quantize else as_it_is(vae.first_stage_model)
        decoded = vae.decode(latent, vae_options=options) if options else vae.decode(latent)
        return _finite(vae, decoded, "decoding").movedim(-1, 1).float()

    tile, overlap = tiles
    while True:
        try:
            return decode_tiled(
                one, samples, lq, vae.downscale_ratio, tile=tile, overlap=overlap, on_tile=on_tile
            )
        except Exception as error:
            mm.raise_non_oom(error)
            if tile <= LEAST_TILE:
                raise mm.OOM_EXCEPTION(
                    f"The memory is too small for the VAE to decode {tile} x {tile} latent cells, its "
                    "smallest tile: close what else uses it, or start ComfyUI with --lowvram or --cpu-vae."
                ) from error
            tile, overlap = tile // 2, overlap // 2
            logging.getLogger(__name__).warning(
                "Out of memory: the VAE decodes tiles of %d x %d latent cells from here on.", tile, tile
            )
            mm.soft_empty_cache()


def as_it_is(autoencoder: Any) -> dict[str, Any]:
    """What tells `Autoencoder.decode` not to bring latents to the codebook, where there is one."""
    return {"quantize": False} if getattr(autoencoder, "quantize", None) is not None else {}


def _finite(vae: Any, values: Tensor, doing: str) -> Tensor:
    """What the VAE made of finite values, after a look at whether it still is finite."""
    if not torch.isfinite(values).all():
        name = str(vae.vae_dtype).removeprefix("torch.")
        cure = "start ComfyUI with --fp32-vae" if name == "float16" else "its weights may be damaged"
        raise ValueError(
            f"The VAE came to values that are not numbers in {doing}. It computes in {name}: {cure}."
        )
    return values
