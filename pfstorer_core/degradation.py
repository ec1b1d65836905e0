"""A first degradation model for training pairs and demonstrations: blur, downsampling, noise, JPEG.

One picture at a time, every parameter drawn beforehand and kept, so that a case can be replayed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Degradation:
    """The parameters of one degradation.

    Attributes:
        blur: standard deviation of the Gaussian, pixels of the good picture.
        scale: factor of the downsampling, ≥ 1.
        noise: standard deviation of the Gaussian noise, in grey levels of 255.
        gray_noise: one noise for all three channels.
        quality: of the JPEG compression, 1…95; 100 leaves it out.
        seed: of the noise.
    """

    blur: float
    scale: float
    noise: float
    gray_noise: bool
    quality: int
    seed: int


def draw_degradation(rng: np.random.Generator, max_scale: float = 6.0) -> Degradation:
    """Draw the parameters: mostly light, at times heavy."""
    return Degradation(
        blur=float(rng.uniform(0.2, 2.0)),
        scale=float(np.exp(rng.uniform(np.log(1.5), np.log(max_scale)))),
        noise=float(rng.uniform(0, 12)),
        gray_noise=bool(rng.random() < 0.4),
        quality=int(rng.integers(40, 101)),
        seed=int(rng.integers(2**31)),
    )


def degrade(image: Tensor, parameters: Degradation, *, keep_size: bool = True) -> Tensor:
    """Degrade pictures.

    Args:
        image: float [B, 3, H, W] in [0, 1].
        keep_size: enlarge the result bicubically to H × W, as training pairs need it.
    Returns:
        float [B, 3, h, w] in [0, 1].
    """
    with torch.autocast(image.device.type, enabled=False):  # 8-bit pictures do not survive bf16
        return _degrade(image.float(), parameters, keep_size)


def _degrade(image: Tensor, p: Degradation, keep_size: bool) -> Tensor:
    size = image.shape[-2:]
    small = (max(1, round(size[0] / p.scale)), max(1, round(size[1] / p.scale)))
    lq = F.interpolate(_blur(image, p.blur), size=small, mode="bicubic", antialias=True)
    noise = torch.randn(
        (len(lq), 1 if p.gray_noise else 3, *small), generator=torch.Generator().manual_seed(p.seed)
    )
    lq = (lq + noise.to(lq) * (p.noise / 255)).clamp(0, 1)
    if p.quality < 100:
        lq = torch.stack([_jpeg(picture, p.quality) for picture in lq])
    if keep_size:
        lq = F.interpolate(lq, size=size, mode="bicubic").clamp(0, 1)
    return lq


def _blur(image: Tensor, sigma: float) -> Tensor:
    radius = min(int(3 * sigma + 0.5), min(image.shape[-2:]) - 1)
    if radius < 1:
        return image
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=image.dtype) / sigma) ** 2)
    taps = (taps / taps.sum()).to(image.device).expand(3, 1, 1, -1)
    image = F.conv2d(F.pad(image, (radius, radius, 0, 0), mode="reflect"), taps, groups=3)
    return F.conv2d(F.pad(image, (0, 0, radius, radius), mode="reflect"), taps.transpose(2, 3), groups=3)


def _jpeg(picture: Tensor, quality: int) -> Tensor:
    pixels = (picture.cpu() * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(file), dtype=np.float32) / 255
    return torch.from_numpy(decoded).permute(2, 0, 1).to(picture)
