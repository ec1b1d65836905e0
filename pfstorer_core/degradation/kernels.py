"""Blur kernels [size, size], float64, which sum to 1.

x runs along the columns, y along the rows, both counted from the middle element; sizes are odd.
Sources: Real-ESRGAN (Wang et al. 2021, sections 3.2 and 3.4) for all but the motion kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SMALLEST_SIGMA = 1e-3
"""Pixels; a narrower kernel is a single 1 anyway, and 0 would divide by zero."""

PROFILES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "gaussian": lambda distance, beta: torch.exp(-0.5 * distance),
    "generalized": lambda distance, beta: torch.exp(-0.5 * distance**beta),
    "plateau": lambda distance, beta: 1 / (1 + distance**beta),
}
"""What a kernel's elements are of their squared, by sigma measured distance from the middle."""


def blur_kernel(
    profile: str, size: int, sigma_x: float, sigma_y: float, theta: float = 0.0, beta: float = 1.0
) -> Tensor:
    """A bell over an ellipse.

    Args:
        profile: a name of `PROFILES`.
        sigma_x, sigma_y: along the ellipse's own axes, in pixels; equal ones make it isotropic.
        theta: by which its x axis is turned towards +y, in radians.
        beta: the shape of "generalized" (1 is a Gaussian) and "plateau" kernels.

    Raises:
        ValueError: no such profile, or an even size.
    """
    if profile not in PROFILES:
        raise ValueError(f"No blur profile {profile!r}; choose one of {', '.join(PROFILES)}.")
    y, x = _offsets(size)
    along = (x * math.cos(theta) + y * math.sin(theta)) / max(sigma_x, SMALLEST_SIGMA)
    across = (y * math.cos(theta) - x * math.sin(theta)) / max(sigma_y, SMALLEST_SIGMA)
    return _normalized(PROFILES[profile](along**2 + across**2, beta))


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """The circular ideal low-pass, cut off at `size`: it leaves ringing and overshoot.

    Args:
        cutoff: angular frequency in (0, π].

    Raises:
        ValueError: an even size, or a cutoff out of range.
    """
    if not 0 < cutoff <= math.pi:
        raise ValueError(f"The cutoff of a sinc kernel lies in (0, π], not at {cutoff}.")
    y, x = _offsets(size)
    distance = torch.hypot(x, y)
    kernel = cutoff * torch.special.bessel_j1(cutoff * distance) / (2 * math.pi * distance)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)  # the limit
    return _normalized(kernel)


def motion_kernel(length: float, angle: float) -> Tensor:
    """A line of one pixel's width through the middle: a camera that moves evenly while it exposes.

    Args:
        length: in pixels; 0 does nothing.
        angle: by which the line is turned from the x axis towards +y, in radians.

    Raises:
        ValueError: a negative length.
    """
    if length < 0:
        raise ValueError(f"The length of a motion blur is 0 or more pixels, not {length}.")
    y, x = _offsets(2 * math.ceil(length / 2) + 1)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    beyond = (along.abs() - length / 2).clamp(min=0)
    return _normalized((1 - torch.hypot(beyond, across)).clamp(min=0))


def _offsets(size: int) -> tuple[Tensor, Tensor]:
    """y and x of every element."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"The size of a kernel is odd, so that it has a middle; got {size}.")
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return y, x


def _normalized(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()
