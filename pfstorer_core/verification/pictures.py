"""The two pictures that are restored, and how alike pictures are."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..imaging.pictures import read_picture
from ..imaging.resizing import resize

FOLDER = Path(__file__).parent / "data"
ENLARGED = 4
"""How much larger the bad picture becomes."""
COARSE = 32
"""Pixels along a side of what is left of a picture when it is asked what it shows."""


def good_picture(side: int) -> Tensor:
    """A face without damage [1, 3, side, side] in [0, 1]; somebody drawn, aligned as in FFHQ."""
    return resize(read_picture(FOLDER / "good.jpg"), (side, side)).clamp(0, 1)


def bad_picture(side: int) -> Tensor:
    """Another one, small, blurred, noisy and compressed, a restoration of which has this side."""
    small = max(1, side // ENLARGED)
    return resize(read_picture(FOLDER / "bad.png"), (small, small)).clamp(0, 1)


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]; what is outside is cut off."""
    error = F.mse_loss(a.float().clamp(0, 1), b.float().clamp(0, 1))
    return float(-10 * torch.log10(error.clamp_min(1e-10)))


def likeness(a: Tensor, b: Tensor) -> float:
    """Correlation (−1…1) of what two pictures [1, 3, H, W] of any size show from afar. Neither finer details
    nor a tint count, which restorers are free in."""
    coarse = [F.adaptive_avg_pool2d(picture.float().clamp(0, 1), COARSE) for picture in (a, b)]
    one, other = (picture - picture.mean((2, 3), keepdim=True) for picture in coarse)
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-8))
