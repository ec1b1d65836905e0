"""insightface's face recogniser in a file."""

from __future__ import annotations

from math import isqrt

from ...models.iresnet import HALVINGS, IResNet, IResNetConfig
from ..header import RestorerHeader
from .base import Part, Tensors

LARGEST_SIDE = 1024
"""Pixels of the pictures that a recogniser sees, at most."""


def sizes(tensors: Tensors, _: RestorerHeader) -> IResNetConfig:
    layers = [f"layer{number + 1}." for number in range(HALVINGS)]
    depths = tuple(tensors.count(layer) for layer in layers)
    tensors.check_affordable(sum(depths))
    widths = tuple(tensors.size(f"{layer}0.conv1.weight", 4)[0] for layer in layers)
    features, inner = tensors.size("fc.weight", 2)
    cells = isqrt(inner // widths[-1])
    if cells**2 * widths[-1] != inner or not 0 < cells <= LARGEST_SIDE // 2**HALVINGS:
        raise tensors.strange(f"its last layer sees {inner:,} values, expected a square of {widths[-1]}")
    stem = tensors.size("conv1.weight", 4)[0]
    return IResNetConfig(stem, widths, depths, features, cells * 2**HALVINGS)


IRESNET = Part(
    "face recogniser",
    "",
    "layer1.0.prelu.weight",
    sizes,
    IResNet,
    full_title="IResNet face recogniser",
    unused=("num_batches_tracked",),
)
