"""What a tiled sampling is checked for, and what of the picture it leaves out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...pfstorer_core.imaging.canvas import Canvas
from .adapters import check_masks
from .conditioning import Conditioning
from .images import from_mask
from .tiles import Tiles

MARGIN = 8
"""Latent cells about a mask that are restored as well, since its edge is decoded and coloured with them."""


def prepare_mask(mask: Tensor | None, pictures: int, model: ModelPatcher) -> Tensor | None:
    """MASK [B or 1, h, w] of any size -> [B or 1, 1, h, w].

    Raises:
        ValueError: another number of masks, here or of the MODEL's persons, or nothing in any of them.
    """
    check_masks(model, pictures)
    if mask is None:
        return None
    mask = from_mask(mask)
    if len(mask) not in (1, pictures):
        raise ValueError(f"{len(mask)} masks do not fit {pictures} pictures: give one, or one for each.")
    if not mask.any():
        raise ValueError(
            "The input mask is empty, so that nothing would be restored: paint what is to be, or leave the "
            "mask unconnected."
        )
    return mask


def plan_tiles(
    canvas: Canvas, mask: Tensor | None, factor: int, together: int, tiles: Tiles
) -> list[tuple[Tiles, int]]:
    """The tiles of each sampling, of so many pictures, and their number: those that lie outside of the mask,
    and of what the autoencoder and the colour fix look at beside it, are left out."""
    count, size = len(canvas.picture), [side // factor for side in canvas.picture.shape[-2:]]
    if mask is None:
        return [(tiles, len(tiles.grid(*size)))] * (count // together)
    content = [-(-side // factor) for side in canvas.content]
    inside = F.adaptive_max_pool2d(mask, content)
    inside = F.pad(inside, (0, size[1] - content[1], 0, size[0] - content[0]))
    wanted = F.max_pool2d(inside, 2 * MARGIN + 1, 1, MARGIN)[:, 0] > 0
    groups = [group.any(0).cpu() for group in wanted.expand(count, -1, -1).split(together)]
    chosen = [replace(tiles, wanted=group) for group in groups]
    return [
        (one, len(one.grid(*size)) if group.any() else 0) for one, group in zip(chosen, groups, strict=True)
    ]


def apply_mask(canvas: Canvas, restored: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The restored picture inside the mask, in place, the bad one outside; and the MASK of it all."""
    if mask is None:
        return restored, restored.new_ones(1, 1, 1).expand(len(restored), *canvas.target)
    return restored.lerp_(canvas.enlarged(), 1 - mask), mask[:, 0]


def check_noise_levels(model: ModelPatcher, steps: int, sampler_name: str, scheduler: str) -> None:
    """Raise ValueError where the scheduler has no noise levels for this number of steps."""
    levels = comfy.samplers.KSampler(model, steps, torch.device("cpu"), sampler_name, scheduler).sigmas
    if not torch.isfinite(levels).all() or len(levels) < 2:
        raise ValueError(
            f"The scheduler {scheduler} gives noise levels that are not numbers for steps {steps}: choose "
            "more steps, or another scheduler."
        )


def sample(
    model: ModelPatcher,
    start: Tensor,
    conditions: Sequence[Conditioning],
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    seed: int,
    denoise: float,
    callback: Callable[[int, Tensor, Tensor, int], object],
) -> Tensor:
    """What the host's KSampler makes of a latent [B, C, h, w] under positive and negative conditioning."""
    noise = comfy.sample.prepare_noise(start, seed)
    positive, negative = conditions
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler_name,
        scheduler,
        positive,
        negative,
        start,
        denoise=denoise,
        seed=seed,
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
    )


def check_samples(samples: Tensor, model: ModelPatcher, sampler_name: str, scheduler: str) -> None:
    """Raise ValueError where sampling overflowed, which would be a black picture."""
    if torch.isfinite(samples).all():
        return
    name = str(model.model.get_dtype_inference()).removeprefix("torch.")
    cure = f"choose another sampler than {sampler_name}, another scheduler than {scheduler}, or a lower cfg"
    if name == "float16":
        cure = f"in fp16 attention can overflow: choose dtype bf16 or fp32 in Load Base Restorer, or {cure}"
    raise ValueError(
        "Sampling came to values that are not numbers, which would be a black picture. The model computes in "
        f"{name}: {cure}."
    )
