"""Degradations, and carrying them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .resampling import MODES, resize
from .steps import Step, step_from_json, step_to_json

TOLERANCE = 1e-3
"""By which values may leave [0, 1], as they do where a caller has resampled."""


@dataclass(frozen=True)
class Degradation:
    """What one picture goes through; it says all, so the same picture gives the same pair again.

    Attributes:
        steps: from HQ to LQ.
        target: from the picture to HQ.
        resize_back: by which mode of `resampling.resize` LQ is brought back to the size of HQ.
    """

    steps: tuple[Step, ...]
    target: tuple[Step, ...] = ()
    resize_back: str = "bicubic"

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts only."""
        return {
            "target": [step_to_json(step) for step in self.target],
            "steps": [step_to_json(step) for step in self.steps],
            "resize_back": self.resize_back,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Degradation:
        """The degradation that `to_json` was called on.

        Raises:
            ValueError: an unknown step, or not its parameters; or another mode than those there are.
        """
        steps, target = (tuple(step_from_json(s) for s in data.get(key, ())) for key in ("steps", "target"))
        resize_back = data.get("resize_back", cls.resize_back)
        if resize_back not in MODES:
            raise ValueError(f"No resize mode {resize_back!r}; choose one of {', '.join(MODES)}.")
        return cls(steps, target, resize_back)


def degrade(
    images: Tensor,
    degradations: Sequence[Degradation],
    *,
    keep_size: bool = True,
    on_step: Callable[[], object] = lambda: None,
) -> Tensor:
    """Make LQ of HQ, each picture by a degradation of its own.

    Args:
        images: float [B, 3, H, W] in [0, 1], on any device, in any precision.
        degradations: B of them.
        keep_size: bring LQ back to H × W, as training pairs need it.
        on_step: called before each step of each picture; raise in it to stop.
    Returns:
        float32 [B, 3, H, W] in [0, 1]; without `keep_size` at the size that was drawn. Never narrower
        than float32, and deaf to autocast: 8-bit pictures do not survive bf16.

    Raises:
        ValueError: other images than these, not one degradation each, or sizes that differ without
            `keep_size`.
    """
    lqs = _carry_out(images, degradations, [d.steps for d in degradations], on_step)
    if keep_size:
        size = (images.shape[-2], images.shape[-1])
        lqs = [resize(lq, size, d.resize_back) for lq, d in zip(lqs, degradations, strict=True)]
    elif len({lq.shape for lq in lqs}) > 1:
        raise ValueError(
            "The degraded pictures have different sizes and make no batch: "
            "let them keep their size (keep_size), or give one picture at a time."
        )
    return torch.cat(lqs)


def ground_truth(images: Tensor, degradations: Sequence[Degradation]) -> Tensor:
    """What `degrade` is to start from and a restorer to aim at: some presets sharpen it, or make it gray.

    Args, returns and raises as `degrade` with `keep_size`.
    """
    return torch.cat(_carry_out(images, degradations, [d.target for d in degradations]))


def _carry_out(
    images: Tensor,
    degradations: Sequence[Degradation],
    programs: Iterable[Iterable[Step]],
    on_step: Callable[[], object] = lambda: None,
) -> list[Tensor]:
    check_pictures(images, degradations)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        images = images.float()
        full = (images.shape[-2], images.shape[-1])
        pairs = zip(images.clamp(0, 1).split(1), programs, strict=True)
        return [_run(image, program, full, on_step) for image, program in pairs]


def check_pictures(images: Tensor, degradations: Sequence[Degradation]) -> None:
    """Raise ValueError unless these are pictures in [0, 1], with a degradation each."""
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape or not images.is_floating_point():
        raise ValueError(f"expected float images [B, 3, H, W], got {images.dtype} {list(images.shape)}")
    if len(degradations) != len(images):
        raise ValueError(f"got {len(degradations)} degradations for {len(images)} images; pass one for each")
    low, high = torch.stack(images.aminmax()).tolist()
    if not -TOLERANCE <= low <= high <= 1 + TOLERANCE:
        raise ValueError(f"expected images in [0, 1], got values from {low:.4g} to {high:.4g}")


def _run(
    image: Tensor, program: Iterable[Step], full: tuple[int, int], on_step: Callable[[], object]
) -> Tensor:
    for step in program:
        on_step()
        image = step.apply(image, full).clamp(0, 1)
    return image
