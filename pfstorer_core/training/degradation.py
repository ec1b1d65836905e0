"""How trainings make LQ pictures of HQ ones: degradations of presets, drawn anew for every picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..degradation import (
    LARGE,
    PRESETS,
    Preset,
    applied_at,
    degrade,
    degrade_together,
    draw,
    draw_alike,
    ground_truth,
)
from ..imaging.canvas import resize


@dataclass(frozen=True)
class RandomDegradation:
    """Draws a degradation for each picture and carries it out.

    Trainings are resumed where their records agree, which have these attributes by name.

    Attributes:
        presets: one of which is taken for each picture.
        at: for each of them, the side in pixels at which it is applied; 0 for the pictures' own.
    """

    presets: tuple[Preset, ...]
    at: tuple[int, ...]

    def __call__(
        self, images: Tensor, rngs: list[np.random.Generator], p_hq: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """HQ and LQ of pictures [B, 3, H, W] in [0, 1], each degraded by its own generator; a share `p_hq` is
        left as it is."""
        height, width = images.shape[-2:]
        chosen, drawn = [], []
        for rng in rngs:
            chosen.append(int(rng.integers(len(self.presets))))
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            drawn += draw(self.presets[chosen[-1]], 1, generator, p_hq)
        if not any(self.at):
            hq = ground_truth(images, drawn)
            return hq, degrade(hq, drawn)
        pairs = []
        for row, (kind, one) in enumerate(zip(chosen, drawn, strict=True)):
            scale = (self.at[kind] or min(height, width)) / min(height, width)
            size = (round(height * scale), round(width * scale))
            hq = ground_truth(resize(images[row : row + 1], size).clamp(0, 1), [one])
            pairs.append([resize(image, (height, width)).clamp(0, 1) for image in (hq, degrade(hq, [one]))])
        hq, lq = (torch.cat(images) for images in zip(*pairs, strict=True))
        return hq, lq

    def in_groups(
        self, images: Tensor, rngs: list[np.random.Generator], p_hq: float, group: int
    ) -> tuple[Tensor, Tensor]:
        """As a call, but so many pictures after another share preset, steps and sizes, which the first one's
        generator draws, and are degraded at once, with noise of their device: what a GPU wants."""
        height, width = images.shape[-2:]
        pairs = []
        for first in range(0, len(images), group):
            part = images[first : first + group]
            drawn = [
                (int(rng.integers(len(self.presets))), int(rng.integers(2**62)))
                for rng in rngs[first : first + group]
            ]
            kind = drawn[0][0]
            degradations = draw_alike(self.presets[kind], [seed for _, seed in drawn], p_hq)
            scale = (self.at[kind] or min(height, width)) / min(height, width)
            size = (round(height * scale), round(width * scale))
            pair = degrade_together(resize(part, size).clamp(0, 1), degradations)
            pairs.append([resize(image, (height, width)).clamp(0, 1) for image in pair])
        hq, lq = (torch.cat(images) for images in zip(*pairs, strict=True))
        return hq, lq


def check_shares(**shares: float | None) -> None:
    """Raise ValueError, naming it, for a share of samples that is neither from 0 to 1 nor None."""
    for name, share in shares.items():
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {share}.")


def random_degradation(name: str, size: int) -> RandomDegradation:
    """The degradation of that name, or of several with commas between them, one of which is drawn for each
    picture; else what suits pictures of `size` pixels: StableSR's, or for small ones, whose networks are
    small too, the two that `evaluate` looks at.

    Raises:
        ValueError: no such preset.
    """
    given = [each.strip() for each in name.split(",")] if name else []
    for each in given:
        if each not in PRESETS:
            raise ValueError(f"No degradation named {each!r}; choose of {', '.join(PRESETS)}.")
    large = size >= LARGE
    names = given or (["stablesr"] if large else ["heavy", "heavy", "heavy", "light"])
    sides = (applied_at(n, size) for n in names)
    at = tuple(0 if side == size else side for side in sides)
    return RandomDegradation(tuple(PRESETS[n] for n in names), at)
