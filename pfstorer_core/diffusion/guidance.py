"""Guidance by formulas: classifier-free, and towards a known latent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .sampling import Denoiser


@dataclass(frozen=True)
class PromptGuidance:
    """How a restorer was made to be guided by prompts.

    Attributes:
        prompt: what its pictures should be like, where nobody says what they show.
        negative_prompt: what they should not be like.
        cfg: classifier-free guidance's scale; 1 for none.
        rescale: whether the scale is `rescaled_cfg`'s.
    """

    prompt: str = ""
    negative_prompt: str = ""
    cfg: float = 1.0
    rescale: bool = False


def cfg_combine(cond: Tensor, uncond: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): uncond + scale (cond - uncond).

    Args:
        scale: one for all, or one for each row, [B].
    """
    if isinstance(scale, Tensor):
        scale = scale.to(cond).reshape(-1, *[1] * (cond.ndim - 1))
    return uncond + scale * (cond - uncond)


def rescaled_cfg(cfg: float, timesteps: Tensor, num_train_timesteps: int = 1000) -> Tensor:
    """DiffBIR v2.1's guidance scale, which grows as the noise falls (its `rescale_cfg`).

    As published: it ends at cfg + 1, not at cfg; it is exactly 1 at the noisiest steps; and a cfg of 1 or
    less is left as it is.

    Args:
        timesteps: original ones, of any shape.
    Returns:
        float64 on the CPU, of the shape of `timesteps`.
    """
    left = (num_train_timesteps - timesteps.cpu().double()) / num_train_timesteps
    grown = 1 + cfg * (1 - (math.pi * left**5).cos()) / 2
    return grown if cfg > 1 else torch.full_like(grown, cfg)


def with_cfg(cond: Denoiser, uncond: Denoiser, cfg: float, *, rescale: bool = False) -> Denoiser:
    """A denoiser by classifier-free guidance; where its scale is 1, `uncond` is not called.

    Args:
        rescale: whether the scale is `rescaled_cfg`'s.
    """

    def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
        scale = rescaled_cfg(cfg, timesteps) if rescale else torch.tensor([cfg])
        predicted = cond(x, timesteps)
        return predicted if (scale == 1).all() else cfg_combine(predicted, uncond(x, timesteps), scale)

    return denoise


def guide_towards(x0: Tensor, reference: Tensor, *, steps: int = 3, step_size: float = 0.05) -> Tensor:
    """Pull a predicted x0 towards a reference latent by gradient descent on the squared error.

    Each step is x0 <- x0 - 2 step_size (x0 - reference), so that (1 - 2 step_size)^steps of the
    difference is left after all of them.
    """
    return reference + (1 - 2 * step_size) ** steps * (x0 - reference)
