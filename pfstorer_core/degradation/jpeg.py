"""JPEG compression, simulated or by an encoder: what the quantization of cosine coefficients does to it.

The steps of ITU-T T.81 and JFIF without the entropy coding, which loses nothing. Training data for
restoration is commonly made with DiffJPEG (Lomnitz 2020), so three of its liberties are kept:
quantization steps are not rounded to integers, those of the luminance are transposed, and pixels come
back as real numbers. kornia's codec (not in 0.7.1) rounds in a differentiable way, takes 3 times as long,
and converts colours by rounded numbers, which puts them up to 0.07 grey levels off.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

BLOCK = 8
FINEST_SCALE = 1e-3
"""Of the quantization steps: at quality 100 they would be 0, and dividing by them NaN."""

LUMINANCE_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""ITU-T T.81, table K.1."""
CHROMINANCE_CORNER = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
"""ITU-T T.81, table K.2; 99 elsewhere."""

RGB_TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
YCC_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def jpeg(image: Tensor, quality: Tensor | float) -> Tensor:
    """Compress and decompress, with colours of half the resolution (4:2:0).

    Args:
        image: float32 [B, 3, H, W] in [0, 1], of any size.
        quality: one for all, or [B]; in (0, 100], real numbers too. 100 leaves little but the
            halved resolution of the colours.
    Returns:
        [B, 3, H, W] in [0, 1].

    Raises:
        ValueError: a quality out of range.
    """
    height, width = image.shape[-2:]
    scale = _step_scale(torch.as_tensor(quality, dtype=image.dtype)).to(image.device)
    padded = F.pad(image, (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK)))
    ycc = _mix(255 * padded, RGB_TO_YCC)
    luma = 128 + _quantized(ycc[:, :1] - 128, image.new_tensor(LUMINANCE_STEPS).T, scale)
    chrominance_steps = F.pad(image.new_tensor(CHROMINANCE_CORNER), (0, 4, 0, 4), value=99)
    chroma = _quantized(F.avg_pool2d(ycc[:, 1:], 2), chrominance_steps, scale)
    chroma = F.interpolate(chroma, scale_factor=2, mode="nearest")
    rgb = _mix(torch.cat([luma, chroma], 1), YCC_TO_RGB)
    return (rgb[..., :height, :width] / 255).clamp(0, 1)


def encoded(image: Tensor, quality: int) -> Tensor:
    """Write a JPEG file, with colours of half the resolution (4:2:0), and read it again.

    Args:
        image: float32 [1, 3, H, W] in [0, 1]; rounded to 8 bits first.
        quality: whole, 1…100.
    Returns:
        [1, 3, H, W] in [0, 1], of 8 bits.

    Raises:
        ValueError: a quality out of range.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"An encoder's JPEG quality is a whole number from 1 to 100; got {quality}.")
    pixels = rearrange((image * 255).round().clamp(0, 255).byte().cpu(), "1 c h w -> h w c")
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as read:
        found = torch.from_numpy(np.array(read))
    return rearrange(found, "h w c -> 1 c h w").to(image) / 255


def _step_scale(quality: Tensor) -> Tensor:
    """libjpeg's scaling of the quantization tables, [B or 1, 1, 1, 1, 1, 1]."""
    if not ((quality > 0) & (quality <= 100)).all():
        raise ValueError(f"A JPEG quality lies in (0, 100]; got {quality.tolist()}.")
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    return scale.clamp(min=FINEST_SCALE).reshape(-1, 1, 1, 1, 1, 1)


def _quantized(plane: Tensor, steps: Tensor, scale: Tensor) -> Tensor:
    """Round the cosine coefficients of 8 × 8 blocks to multiples of `steps` [8, 8] times `scale`."""
    blocks = rearrange(plane, "b c (y v) (x u) -> b c y x v u", v=BLOCK, u=BLOCK)
    cosines = _cosines(plane)
    steps = steps * scale
    coefficients = (cosines @ blocks @ cosines.T / steps).round() * steps
    return rearrange(cosines.T @ coefficients @ cosines, "b c y x v u -> b c (y v) (x u)")


def _cosines(like: Tensor) -> Tensor:
    """The orthonormal DCT-II, [frequency, position]."""
    positions = torch.arange(BLOCK, dtype=torch.float64)
    matrix = torch.cos((2 * positions + 1) * positions[:, None] * (math.pi / (2 * BLOCK))) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.to(like)


def _mix(image: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.einsum("oc,bchw->bohw", image.new_tensor(matrix), image)
