"""Classifier-free guidance as a restorer was made for it."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...pfstorer_core.checkpoints.header import RestorerHeader
from ...pfstorer_core.diffusion.guidance import cfg_combine, rescaled_cfg
from ...pfstorer_core.restorers.registry import prompt_guidance


def set_guidance(model: ModelPatcher, header: RestorerHeader) -> None:
    """Lets a MODEL of DiffBIR v2.1 rescale cfg in any sampler; a node that sets its own rule overrides it."""
    if prompt_guidance(header).rescale:
        model.set_model_sampler_cfg_function(rescaled)


def rescaled(args: dict[str, Any]) -> Tensor:
    """The host's sampler_cfg_function: what is taken off the noisy latent."""
    timestep = args["model"].model_sampling.timestep(args["sigma"][:1])
    scale = rescaled_cfg(args["cond_scale"], timestep)
    return args["input"] - cfg_combine(args["cond_denoised"], args["uncond_denoised"], scale)
