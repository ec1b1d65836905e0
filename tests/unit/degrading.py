"""Pictures to degrade, and one of each kind of step."""

import torch
from torch import Tensor

from pfstorer_core.degradation import (
    Blur,
    Degradation,
    GaussianNoise,
    Gray,
    IspNoise,
    Jpeg,
    JpegFile,
    MedianBlur,
    MotionBlur,
    PoissonNoise,
    Resize,
    Sharpen,
    Sinc,
    Step,
    degrade,
)
from pfstorer_core.degradation.filters import filter2d
from pfstorer_core.degradation.kernels import blur_kernel

STEPS: list[Step] = [
    Blur(2, 1, theta=0.5),
    Sinc(1.0),
    MotionBlur(9, 0.3),
    MedianBlur(3),
    Resize(1 / 3, "bilinear"),
    GaussianNoise(20, seed=1),
    PoissonNoise(2, seed=1),
    IspNoise(shot=0.01, read=1e-4, seed=1),
    Jpeg(20),
    JpegFile(20),
    Gray(),
    Sharpen(),
]
"""One of each kind whose effect can be seen."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def natural(batch: int = 1, height: int = 48, width: int = 64, seed: int = 0) -> Tensor:
    """Pictures with soft and hard edges and texture."""
    noise = torch.rand(batch, 3, height, width, generator=seeded(seed))
    soft = filter2d(noise, blur_kernel("gaussian", 9, 2, 2))
    soft = (soft - soft.amin()) / (soft.amax() - soft.amin())
    soft[..., height // 3 : height // 2, width // 4 : width // 2] = 0.9
    return 0.95 * soft + 0.05 * noise


def one(image: Tensor, *steps: Step, keep_size: bool = True) -> Tensor:
    return degrade(image, [Degradation(steps)] * len(image), keep_size=keep_size)
