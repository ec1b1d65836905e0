"""A restorer's autoencoder as a native VAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, cast

import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...pfstorer_core.diffusion.schedule import PredictionType
from ...pfstorer_core.models import Autoencoder, Backend
from ...pfstorer_core.restorers.files import RestorerFile, open_restorer
from .loading import load_weights, patcher_class


class RestorerVAE(comfy.sd.VAE):
    """The host's VAE, which does not lose the fidelity where memory is short."""

    def decode(self, samples_in: Tensor, vae_options: dict[str, Any] | None = None) -> Tensor:
        options = vae_options or {}
        # The host's way out passes no options on; with a fidelity, pixels.decode takes smaller tiles instead.
        vae = _WithoutTiles.of(self) if options.get("fidelity") else self
        return comfy.sd.VAE.decode(vae, samples_in, options)


class _WithoutTiles(comfy.sd.VAE):
    """The same VAE for one decoding in which the host may not take tiles of its own."""

    @classmethod
    def of(cls, vae: comfy.sd.VAE) -> _WithoutTiles:
        own = cls.__new__(cls)
        own.__dict__.update(vae.__dict__)
        return own

    def decode_tiled_(self, samples: Tensor, *_: Any, **__: Any) -> NoReturn:
        raise mm.OOM_EXCEPTION("The VAE has no room for this tile: choose a smaller one.")


def build_vae(file: RestorerFile, disable_dynamic: bool = False) -> comfy.sd.VAE:
    """The host's VAE around our autoencoder, so that `decode` also takes an LQ picture and a fidelity:
    ``vae.decode(z, vae_options={"lq": …, "fidelity": 0.5})``."""
    vae = _hollow_vae()
    config = file.autoencoder_config
    meta = torch.device("meta")
    backend = Backend(comfy.ops.disable_weight_init, optimized_attention, dtype=vae.vae_dtype, device=meta)
    autoencoder = Autoencoder(config, backend).eval().requires_grad_(False)
    mm.archive_model_dtypes(autoencoder)
    vae.first_stage_model = cast(Any, autoencoder)
    vae.patcher = patcher_class(disable_dynamic)(
        autoencoder, load_device=vae.device, offload_device=mm.vae_offload_device()
    )
    placement = None if vae.patcher.is_dynamic() else {"dtype": vae.vae_dtype, "device": "cpu"}
    load_weights(autoencoder, file.autoencoder, "autoencoder", file.expected[1], placement)
    vae.downscale_ratio = vae.upscale_ratio = config.downscale
    vae.latent_channels = config.embed_dim
    # The host's estimates are for Stable Diffusion's width and its factor of 8.
    width = config.ch / 128
    vae.memory_used_encode = lambda shape, dtype: 1767 * width * shape[2] * shape[3] * mm.dtype_size(dtype)
    vae.memory_used_decode = lambda shape, dtype: (
        2178 * width * config.downscale**2 * shape[2] * shape[3] * mm.dtype_size(dtype)
    )
    vae.size = None
    vae.model_size()
    return vae


def load_vae(
    path: str,
    addons: Sequence[str],
    prediction_type: PredictionType | None,
    variant: str | None,
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """The same for the patcher of a VAE."""
    return build_vae(open_restorer(path, addons, prediction_type, variant), disable_dynamic).patcher


def _hollow_vae() -> RestorerVAE:
    """A host VAE with next to no first stage: its constructor only takes first stages that it knows."""
    sizes = {"double_z": True, "z_channels": 4, "resolution": 8, "in_channels": 3, "out_ch": 3, "ch": 32,
             "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
    params = {"embed_dim": 4, "ddconfig": sizes}
    return RestorerVAE(sd=AutoencoderKL(**params).state_dict(), config={"params": params})
