"""What makes bad pictures of good ones in a training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..canvas import resize
from ..degradation import PRESETS, Preset, degrade, draw, ground_truth

LARGE = 256
"""Pixels of pictures from which on presets are applied to them as they are."""
SMALL_AT = 448
"""Side to which smaller ones are enlarged for it: presets are made for 512 pixels, and would leave nothing
of a small one."""


@dataclass(frozen=True)
class Damage:
    """A degradation of random kind and strength.

    Attributes:
        presets: one of which is taken for each picture.
        at: side in pixels at which it is applied; 0 for the pictures' own.
    """

    presets: tuple[Preset, ...]
    at: int = 0

    def __call__(
        self, images: Tensor, rngs: list[np.random.Generator], p_hq: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """HQ and LQ of pictures [B, 3, H, W] in [0, 1], each degraded by its own generator; a share `p_hq` is
        left as it is."""
        height, width = images.shape[-2:]
        drawn = []
        for rng in rngs:
            preset = self.presets[int(rng.integers(len(self.presets)))]
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            drawn += draw(preset, 1, generator, p_hq)
        if not self.at:
            hq = ground_truth(images, drawn)
            return hq, degrade(hq, drawn)
        scale = self.at / min(height, width)
        large = resize(images, (round(height * scale), round(width * scale))).clamp(0, 1)
        hq = ground_truth(large, drawn)
        pair = (resize(image, (height, width)).clamp(0, 1) for image in (hq, degrade(hq, drawn)))
        return next(pair), next(pair)


def damage(name: str, size: int) -> Damage:
    """The degradation of that name, else what suits pictures of `size` pixels: StableSR's, or for small
    ones, whose networks are small too, the two that `evaluate` looks at.

    Raises:
        ValueError: no such preset.
    """
    if name and name not in PRESETS:
        raise ValueError(f"No degradation named {name!r}; choose one of {', '.join(PRESETS)}.")
    large = size >= LARGE
    names = [name] if name else ["stablesr"] if large else ["heavy", "heavy", "heavy", "light"]
    return Damage(tuple(PRESETS[n] for n in names), 0 if large else SMALL_AT)
