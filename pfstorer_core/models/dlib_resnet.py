"""dlib's face recogniser (King 2017): a ResNet with 29 convolutions, as in dlib's
dnn_face_recognition_ex.cpp."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .ops import Backend

MEAN = (122.782, 117.001, 104.298)
"""Of its training's pictures, RGB of 255."""
SPREAD = 256.0


@dataclass(frozen=True)
class DlibResNetConfig:
    """Sizes of such a network; the defaults are those of the published one.

    Attributes:
        stem: width of the first convolution.
        widths, depths: of the layers, depths in blocks. All but the first layer halve the picture.
        features: values of an embedding.
        side: of the pictures, in pixels; no tensor tells it.
    """

    stem: int = 32
    widths: tuple[int, ...] = (32, 64, 128, 256, 256)
    depths: tuple[int, ...] = (3, 4, 3, 3, 1)
    features: int = 128
    side: int = 150


class Block(nn.Module):
    """Two convolutions beside the input itself or, where it is halved, its mean over 2 x 2 pixels.

    dlib pads no convolution that halves, and adds what differs in size or width as if it were filled up with
    zeros, at the right and at the bottom.
    """

    def __init__(self, before: int, after: int, halves: bool, backend: Backend) -> None:
        super().__init__()
        self.halves = halves
        self.conv1 = backend.conv(before, after, 3, *((2, 0) if halves else ()))
        self.conv2 = backend.conv(after, after, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, after, H, W], or half of it: H // 2, W // 2"""
        inner = self.conv2(F.relu(self.conv1(x)))
        beside = F.avg_pool2d(x, 2) if self.halves else x
        size = [max(sides) for sides in zip(inner.shape[1:], beside.shape[1:], strict=True)]
        return F.relu(filled(inner, size) + filled(beside, size))


class DlibResNet(nn.Module):
    """An aligned face -> where it is among faces: two photos of one person are less than 0.6 apart.

    What dlib multiplies and adds behind each convolution (its affine layers) is in the convolution.
    """

    def __init__(self, config: DlibResNetConfig, backend: Backend | None = None) -> None:
        super().__init__()
        backend = backend or Backend()
        self.config = config
        self.conv1 = backend.conv(3, config.stem, 7, 2, 0)
        before, self.layers = config.stem, list[str]()
        for number, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            blocks = [Block(before, width, number > 0, backend)]
            blocks += [Block(width, width, False, backend) for _ in range(depth - 1)]
            self.layers.append(f"layer{number + 1}")
            self.add_module(self.layers[-1], nn.Sequential(*blocks))
            before = width
        self.fc = backend.linear(before, config.features, bias=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """RGB pictures [B, 3, 150, 150] in [-1, 1] -> descriptors [B, features], which are compared by their
        distance, and nearly of one length."""
        mean = pictures.new_tensor(MEAN)[:, None, None]
        h = self.conv1(((pictures + 1) * 127.5 - mean) / SPREAD)
        h = F.max_pool2d(F.relu(h), 3, 2)
        for layer in self.layers:
            h = self.get_submodule(layer)(h)
        return self.fc(h.mean((2, 3)))


def filled(h: Tensor, size: list[int]) -> Tensor:
    """[B, C, H, W] of the size (channels, height, width), with zeros behind what is there."""
    channels, height, width = (more - had for more, had in zip(size, h.shape[1:], strict=True))
    return F.pad(h, (0, width, 0, height, 0, channels)) if channels or height or width else h
