"""Filters on float [B, 3, H, W] in [0, 1], of any size from 1 × 1 on; edges are reflected."""

from __future__ import annotations

import torch
from kornia.color import rgb_to_grayscale
from kornia.filters import median_blur as kornia_median_blur
from torch import Tensor

from .kernels import blur_kernel

USM_SIZE, USM_SIGMA = 51, 8.0
USM_WEIGHT = 0.5
USM_THRESHOLD = 10 / 255


def filter2d(image: Tensor, kernel: Tensor) -> Tensor:
    """Correlate every channel with a kernel; not clipped.

    Args:
        image: [B, C, H, W].
        kernel: [k, k], or one an image, [B, k, k]; k is odd.
    Returns:
        [B, C, H, W].

    Raises:
        ValueError: kernels of an even size, or not one an image.
    """
    k = kernel.shape[-1]
    if kernel.ndim not in (2, 3) or kernel.shape[-2] != k or k % 2 == 0:
        raise ValueError(f"expected kernels [k, k] or [B, k, k] of odd k, got {list(kernel.shape)}")
    if kernel.ndim == 3 and len(kernel) != len(image):
        raise ValueError(f"got {len(kernel)} kernels for {len(image)} images; pass one each, or one [k, k]")
    height, width = image.shape[-2:]
    # By way of the frequencies: on one core, kornia's filter2d takes 3 times as long for 512 px at 21 × 21,
    # 12 times at 41 × 41, and 580 MB for 2048 px at 3 × 3, where the picture has 50. It also refuses pictures
    # that are not larger than half the kernel.
    padded = reflect_pad(image, k // 2)
    size = padded.shape[-2:]
    kernel = kernel.to(image)[..., None, :, :]
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernel, s=size).conj()
    return torch.fft.irfft2(spectrum, s=size)[..., :height, :width]


def reflect_pad(image: Tensor, width: int) -> Tensor:
    """Mirror `width` pixels at each edge, which is not repeated; more than once where the image is small."""
    rows, columns = (_reflected(length, width, image.device) for length in image.shape[-2:])
    return image[..., rows[:, None], columns]


def _reflected(length: int, width: int, device: torch.device) -> Tensor:
    period = max(1, 2 * (length - 1))
    index = torch.arange(-width, length + width, device=device) % period
    return torch.minimum(index, period - index) if length > 1 else index


def sharpen(image: Tensor) -> Tensor:
    """Unsharp masking that spares noise, as Real-ESRGAN sharpens its ground truth (section 3.5).

    Details of more than 10 grey levels are enhanced by half, through a mask with soft edges. The
    Gaussian has 51 taps; 8 is the sigma that OpenCV takes for that many.
    """
    kernel = blur_kernel("gaussian", USM_SIZE, USM_SIGMA, USM_SIGMA)
    detail = image - filter2d(image, kernel)
    mask = filter2d((detail.abs() > USM_THRESHOLD).to(image), kernel)
    return image + mask * ((image + USM_WEIGHT * detail).clamp(0, 1) - image)


def median_blur(image: Tensor, size: int) -> Tensor:
    """The median of `size` × `size` pixels; `size` is odd.

    Raises:
        ValueError: an even size.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"The size of a median blur is odd, so that it has a middle; got {size}.")
    (height, width), rim = image.shape[-2:], size // 2
    # What kornia makes of the rim, where versions of it differ, is cut off; one channel after the other takes
    # a third of the memory.
    blurred = [kornia_median_blur(channel, size) for channel in reflect_pad(image, rim).split(1, 1)]
    return torch.cat(blurred, 1)[..., rim : rim + height, rim : rim + width]


def to_gray(image: Tensor) -> Tensor:
    """The luma (ITU-R BT.601) in all three channels."""
    return rgb_to_grayscale(image).expand_as(image).contiguous()
