"""LPIPS, the perceptual distance of two pictures (arXiv:1801.03924), on a VGG-16.

Its weights come from the user: in checkpoints of latent diffusion's first stages they lie beside the network.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512, 512)
CONVS = (2, 2, 3, 3, 3)
"""Of VGG-16's five levels; the first of each but the first halves the picture."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation, for pictures in [-1, 1]."""


class Vgg(nn.Module):
    """Picture -> the features of five levels; layers are numbered as torchvision numbers them."""

    def __init__(self) -> None:
        super().__init__()
        number = 0
        for level, ((before, width), convs) in enumerate(zip(pairwise((3, *WIDTHS)), CONVS, strict=True), 1):
            layers = nn.Sequential()
            if level > 1:
                layers.add_module(str(number), nn.MaxPool2d(2))
                number += 1
            for conv in range(convs):
                layers.add_module(str(number), nn.Conv2d(width if conv else before, width, 3, padding=1))
                layers.add_module(str(number + 1), nn.ReLU())
                number += 2
            self.add_module(f"slice{level}", layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for level in self.children():
            x = level(x)
            features.append(x)
        return features


class Scaling(nn.Module):
    """Brings pictures in [-1, 1] to what the VGG-16 learned from."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(SHIFT)[None, :, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[None, :, None, None])

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.shift) / self.scale


class Linear(nn.Module):
    """How much the difference in each channel counts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, difference: Tensor) -> Tensor:
        return self.model(difference)


class LPIPS(nn.Module):
    """Distance of pictures; made for measuring, in eval mode and without gradients of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer, self.net = Scaling(), Vgg()
        for level, width in enumerate(WIDTHS):
            self.add_module(f"lin{level}", Linear(width))
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> LPIPS:
        """It stays as it is, whatever it is part of."""
        return super().train(False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] each -> [B, 1, 1, 1]."""
        features = (self.net(self.scaling_layer(picture)) for picture in (output, target))
        distance = output.new_zeros(len(output), 1, 1, 1)
        for level, (a, b) in enumerate(zip(*features, strict=True)):
            difference = (F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)).square()
            distance = distance + self.get_submodule(f"lin{level}")(difference).mean((2, 3), keepdim=True)
        return distance
