"""IResNet, insightface's face recogniser (Deng et al. 2019, arXiv:1801.07698; Duta et al. 2020,
arXiv:2004.04989), in the layout of arcface_torch's `backbone.pth`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ops import Backend

EPS, MOMENTUM = 1e-5, 0.1
"""Of batch normalization."""
HALVINGS = 4
"""Layers, each of which halves the picture."""


@dataclass(frozen=True)
class IResNetConfig:
    """Sizes of an IResNet; the defaults are insightface's IResNet-50.

    Attributes:
        stem: width of the first convolution.
        widths, depths: of the four layers, depths in blocks.
        features: values of an embedding.
        side: of the pictures, in pixels.
    """

    stem: int = 64
    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (3, 4, 14, 3)
    features: int = 512
    side: int = 112

    def __post_init__(self) -> None:
        if len(self.widths) != HALVINGS or len(self.depths) != HALVINGS:
            raise ValueError(f"an IResNet has {HALVINGS} layers, not {len(self.widths)}")
        if self.side < 1 or self.side % 2**HALVINGS:
            raise ValueError(f"pictures of {self.side} pixels are not a multiple of {2**HALVINGS}")


IRESNET18 = IResNetConfig(depths=(2, 2, 2, 2))
IRESNET50 = IResNetConfig()
IRESNET100 = IResNetConfig(depths=(3, 13, 30, 3))


class Norm(nn.Module):
    """Batch normalization of [B, C, …], which does not count its batches: what was counted changes nothing,
    and files may lack it."""

    def __init__(self, channels: int, backend: Backend) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, **backend.placement))
        self.bias = nn.Parameter(torch.zeros(channels, **backend.placement))
        self.register_buffer("running_mean", torch.zeros(channels, **backend.placement))
        self.register_buffer("running_var", torch.ones(channels, **backend.placement))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return F.batch_norm(x, *seen, self.weight, self.bias, self.training, MOMENTUM, EPS)


class Block(nn.Module):
    """Two convolutions with three normalizations, beside the input itself or, where sizes change, its
    `downsample`."""

    def __init__(self, before: int, after: int, stride: int, backend: Backend) -> None:
        super().__init__()
        self.bn1 = Norm(before, backend)
        self.conv1 = conv(before, after, backend)
        self.bn2 = Norm(after, backend)
        self.prelu = nn.PReLU(after, **backend.placement)
        self.conv2 = conv(after, after, backend, stride)
        self.bn3 = Norm(after, backend)
        self.downsample = None
        if stride > 1 or before != after:
            self.downsample = nn.Sequential(conv(before, after, backend, stride, 1), Norm(after, backend))

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, after, H / stride, W / stride]"""
        h = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(h)) + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """An aligned face -> what tells it from others' faces."""

    def __init__(self, config: IResNetConfig, backend: Backend | None = None) -> None:
        super().__init__()
        backend = backend or Backend()
        self.config = config
        self.conv1 = conv(3, config.stem, backend)
        self.bn1 = Norm(config.stem, backend)
        self.prelu = nn.PReLU(config.stem, **backend.placement)
        before = config.stem
        for number, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            blocks = [Block(width if n else before, width, 1 if n else 2, backend) for n in range(depth)]
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
            before = width
        self.bn2 = Norm(before, backend)
        cells = (config.side // 2**HALVINGS) ** 2
        self.fc = nn.Linear(before * cells, config.features, **backend.placement)
        self.features = Norm(config.features, backend)

    def forward(self, pictures: Tensor) -> Tensor:
        """RGB pictures [B, 3, side, side] in [-1, 1] -> embeddings [B, features], of any length."""
        h = self.prelu(self.bn1(self.conv1(pictures)))
        for number in range(HALVINGS):
            h = self.get_submodule(f"layer{number + 1}")(h)
        return self.features(self.fc(self.bn2(h).flatten(1)))


def conv(before: int, after: int, backend: Backend, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False, **backend.placement)
