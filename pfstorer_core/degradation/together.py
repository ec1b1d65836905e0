"""Carrying out degradations of the same steps and sizes for all pictures at once: what a GPU wants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import filter2d
from .jpeg import jpeg
from .pipeline import Degradation, check_pictures
from .resampling import resize
from .steps import Filter, Jpeg, JpegFile, Noisy, Step


def degrade_together(images: Tensor, degradations: Sequence[Degradation]) -> tuple[Tensor, Tensor]:
    """HQ and LQ of pictures, as `ground_truth` and `degrade` make them one by one, but for the noise: it is
    drawn on the device of the pictures, and so the same only on a CPU.

    Args:
        images: float [B, 3, H, W] in [0, 1].
        degradations: B of them, of the same kinds of steps, which see pictures of the same size
            (`draw.draw_alike`).
    Returns:
        float32 [B, 3, H, W] in [0, 1] each.

    Raises:
        ValueError: other pictures than these, not one degradation each, or degradations that differ.
    """
    check_pictures(images, degradations)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        hq = _carried_out(images.float().clamp(0, 1), [d.target for d in degradations])
        lq = _carried_out(hq, [d.steps for d in degradations])
        return hq, resize(lq, (images.shape[-2], images.shape[-1]), degradations[0].resize_back)


def _carried_out(images: Tensor, programs: Sequence[Sequence[Step]]) -> Tensor:
    full = (images.shape[-2], images.shape[-1])
    if len({len(program) for program in programs}) > 1:
        raise ValueError("Degradations of different lengths cannot be carried out together.")
    for steps in zip(*programs, strict=True):
        images = _step(images, steps, full).clamp(0, 1)
    return images


def _step(images: Tensor, steps: Sequence[Step], full: tuple[int, int]) -> Tensor:
    """The same place in the program of every picture."""
    if all(isinstance(step, Filter) for step in steps):
        return filter2d(images, _kernels([step.kernel() for step in steps if isinstance(step, Filter)]))
    if all(isinstance(step, Jpeg) for step in steps):
        return jpeg(images, torch.tensor([step.quality for step in steps if isinstance(step, Jpeg)]))
    if all(isinstance(step, (Noisy, JpegFile)) for step in steps):
        rows = zip(images.split(1), steps, strict=True)
        noisy = [
            step.noisy(row, there=True) if isinstance(step, Noisy) else step.apply(row, full)
            for row, step in rows
        ]
        return torch.cat(noisy)
    if any(step != steps[0] for step in steps):
        kinds = ", ".join(sorted({str(step) for step in steps}))
        raise ValueError(f"These steps cannot be carried out together: {kinds}.")
    return steps[0].apply(images, full)


def _kernels(kernels: Sequence[Tensor]) -> Tensor:
    """[B, k, k], of the size of the largest."""
    largest = max(len(kernel) for kernel in kernels)
    rims = [(largest - len(kernel)) // 2 for kernel in kernels]
    return torch.stack([F.pad(k, (rim,) * 4) for k, rim in zip(kernels, rims, strict=True)])
