"""dlib's face recogniser in a file of ours."""

from __future__ import annotations

from ...models.dlib_resnet import DlibResNet, DlibResNetConfig
from ..header import RestorerHeader
from .base import Part, Tensors


def sizes(tensors: Tensors, _: RestorerHeader) -> DlibResNetConfig:
    layers = [f"layer{number}." for number in range(1, 100) if tensors.any(f"layer{number}.")]
    depths = tuple(tensors.count(layer) for layer in layers)
    tensors.check_affordable(sum(depths))
    return DlibResNetConfig(
        tensors.size("conv1.weight", 4)[0],
        tuple(tensors.size(f"{layer}0.conv1.weight", 4)[0] for layer in layers),
        depths,
        tensors.size("fc.weight", 2)[0],
    )


DLIB_RESNET = Part(
    "face recogniser",
    "",
    "layer1.0.conv1.bias",
    sizes,
    DlibResNet,
    full_title="dlib face recogniser",
)
"""Its convolutions have biases, which those of an IResNet have not."""
