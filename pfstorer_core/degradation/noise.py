"""Noise on float [B, 3, H, W] in [0, 1]; results are clipped to that range.

Random numbers are drawn on the CPU, so that a seed gives the same noise on every device; or, where `there`
says so, on that of the picture.
"""

from __future__ import annotations

import torch
from kornia.color import rgb_to_grayscale
from torch import Tensor


def gaussian_noise(image: Tensor, sigma: float, *, gray: bool, seed: int, there: bool = False) -> Tensor:
    """Add white Gaussian noise.

    Args:
        sigma: standard deviation in grey levels of 255.
        gray: the same noise in all three channels.
    """
    batch, channels, height, width = image.shape
    shape = (batch, 1 if gray else channels, height, width)
    generator = seeded(image, seed, there)
    noise = torch.randn(shape, generator=generator, device=generator.device)
    return (image + noise.to(image) * (sigma / 255)).clamp(0, 1)


def poisson_noise(image: Tensor, scale: float, *, gray: bool, seed: int, there: bool = False) -> Tensor:
    """Add the noise of counted photons: the brighter a pixel, the more of it.

    White is as many photons as the 8-bit picture has different levels, rounded up to a power of two
    (scikit-image's rule); `scale` multiplies the noise (Real-ESRGAN, section 3.2).

    Args:
        gray: the same noise, that of the luma, in all three channels.
    """
    clean = ((rgb_to_grayscale(image) if gray else image) * 255).round() / 255
    photons = torch.stack([_photons(picture) for picture in clean])
    generator = seeded(image, seed, there)
    counts = torch.poisson((clean * photons).to(generator.device), generator=generator).to(image)
    return (image + (counts / photons - clean) * scale).clamp(0, 1)


def seeded(image: Tensor, seed: int, there: bool) -> torch.Generator:
    """Draws numbers on the CPU, or on the device of the picture."""
    return torch.Generator(image.device if there else "cpu").manual_seed(seed)


def _photons(picture: Tensor) -> Tensor:
    levels = torch.bincount((picture * 255).round().long().flatten(), minlength=256).count_nonzero()
    return torch.exp2(levels.to(picture).log2().ceil())[None, None, None]
