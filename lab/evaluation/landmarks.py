"""Where are eyes, nose and mouth: a landmark detector for drawn faces, restored or not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.geometry.subpix import spatial_soft_argmax2d
from torch import Tensor, nn

from .blocks import Residual, conv

INPUT = 128
"""Side of the pictures that the detector looks at."""

REPORTED = 512
"""LMSE is in pixels of pictures of this side, the paper's, whatever the pictures' own."""


class LandmarkNetwork(nn.Module):
    """[B, 3, 128, 128] in [0, 1] -> K landmarks, by the means of K heat maps (Sun et al. 2018)."""

    def __init__(self, landmarks: int, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, width, 5, 2), nn.SiLU(), Residual(width, 2 * width, 2))
        self.down = nn.ModuleList(
            [
                Residual(2 * width, 3 * width, 2),
                Residual(3 * width, 4 * width, 2),
                Residual(4 * width, 4 * width, 2),
            ]
        )
        self.up = nn.ModuleList(
            [Residual(4 * width, 4 * width), Residual(4 * width, 3 * width), Residual(3 * width, 2 * width)]
        )
        self.heat = nn.Conv2d(2 * width, landmarks, 1)

    def forward(self, images: Tensor) -> Tensor:
        """[B, K, 2] (x, y) as parts of the picture's sides."""
        x = self.stem(4 * (images - 0.5))
        skips = []
        for layer in self.down:
            skips.append(x)
            x = layer(x)
        for layer, skip in zip(self.up, reversed(skips), strict=True):
            x = skip + F.interpolate(layer(x), scale_factor=2.0, mode="nearest")
        return means(self.heat(x).float())


def means(heat: Tensor) -> Tensor:
    """Heat maps [B, K, H, W] -> the mean place of each, [B, K, 2] (x, y) as parts of the sides."""
    sides = heat.new_tensor(heat.shape[:-3:-1])
    return (spatial_soft_argmax2d(heat, normalized_coordinates=False) + 0.5) / sides


@torch.no_grad()
def landmark_error(network: LandmarkNetwork, images: Tensor, landmarks: Tensor, visible: Tensor) -> Tensor:
    """Mean squared distance [B] between the landmarks found in square pictures and the true ones.

    Args:
        images: [B, 3, S, S] in [0, 1].
        landmarks: true places [B, K, 2] in pixels of `images`.
        visible: bool [B, K]: which of them count.
    Returns:
        square pixels of pictures of `REPORTED` pixels; NaN where no landmark is visible.
    """
    side = images.shape[-1]
    small = F.interpolate(images, (INPUT, INPUT), mode="bicubic", antialias=True).clamp(0, 1)
    squares = ((network(small) - landmarks / side) ** 2).sum(-1) * REPORTED**2
    return (squares * visible).sum(1) / visible.sum(1)
