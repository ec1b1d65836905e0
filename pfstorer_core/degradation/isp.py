"""The noise of a camera, which is made on its sensor and then developed with the picture.

After SCUNet (Zhang et al. 2023, section 3.2) and Brooks et al. 2019 ("Unprocessing images for learned
raw denoising"): a picture is taken back to the mosaic of a raw file, gets noise there, and is developed
again. The noise comes out correlated over pixels and channels, and stronger in shadows. Tone mapping
is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import filter2d

BAYER = ((0, 1), (1, 2))
"""The channel that each pixel of a 2 × 2 cell sees: RGGB."""
NEIGHBOURS = ((0.25, 0.5, 0.25), (0.5, 1.0, 0.5), (0.25, 0.5, 0.25))


def isp_noise(
    image: Tensor,
    *,
    shot: float,
    read: float,
    red_gain: float,
    blue_gain: float,
    crosstalk: tuple[float, ...],
    seed: int,
) -> Tensor:
    """Unprocess, add shot and read noise, develop.

    Args:
        image: float32 [B, 3, H, W] in [0, 1], sRGB.
        shot, read: the variance of a raw value x in [0, 1] is shot · x + read.
        red_gain, blue_gain: of the white balance, ≥ 1; green has 1.
        crosstalk: `color_matrix`'s.
        seed: of the noise, which is drawn on the CPU.
    Returns:
        [B, 3, H, W] in [0, 1].
    """
    to_camera = color_matrix(crosstalk)
    gains = image.new_tensor([red_gain, 1.0, blue_gain])[:, None, None]
    height, width = image.shape[-2:]
    whole_cells = F.pad(image, (0, width % 2, 0, height % 2), mode="replicate")

    raw = _mosaic(_mix(srgb_to_linear(whole_cells), to_camera) / gains)
    noise = torch.randn(raw.shape, generator=torch.Generator().manual_seed(seed)).to(raw)
    # Black lies above 0 on a sensor, so that noise below it is not lost, which would tint shadows.
    raw = (raw + noise * (shot * raw + read).sqrt()).clamp(max=1)

    developed = _mix((demosaic(raw) * gains).clamp(max=1), torch.linalg.inv(to_camera))
    return linear_to_srgb(developed.clamp(0, 1))[..., :height, :width]


def color_matrix(crosstalk: tuple[float, ...]) -> Tensor:
    """Linear sRGB to a camera's colours, float64 [3, 3]; rows sum to 1, so that gray stays gray.

    Args:
        crosstalk: what red sees of green and of blue, green of red and of blue, blue of red and of
            green. Six shares below 1/4 always make a matrix that can be inverted.

    Raises:
        ValueError: not six shares in [0, 1/4).
    """
    if len(crosstalk) != 6 or not all(0 <= share < 0.25 for share in crosstalk):
        raise ValueError(f"The crosstalk is six shares in [0, 1/4), not {crosstalk}.")
    matrix = torch.zeros(3, 3, dtype=torch.float64)
    matrix[~torch.eye(3, dtype=torch.bool)] = torch.tensor(crosstalk, dtype=torch.float64)
    return matrix + torch.diag(1 - matrix.sum(1))


def demosaic(raw: Tensor) -> Tensor:
    """All three colours of a mosaic [B, 1, H, W] of even sides: each pixel from the nearest that see them.

    Bilinear: the weighted mean of those among its 3 × 3 neighbours. Returns [B, 3, H, W].
    """
    seen = _bayer_masks(raw)
    kernel = raw.new_tensor(NEIGHBOURS)
    return filter2d(raw * seen, kernel) / filter2d(seen, kernel)


def srgb_to_linear(image: Tensor) -> Tensor:
    """Undo the gamma curve of sRGB (IEC 61966-2-1)."""
    return torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(image: Tensor) -> Tensor:
    """The gamma curve of sRGB (IEC 61966-2-1)."""
    curve = 1.055 * image.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(image <= 0.0031308, 12.92 * image, curve)


def _mosaic(image: Tensor) -> Tensor:
    return (image * _bayer_masks(image)).sum(1, keepdim=True)


def _bayer_masks(like: Tensor) -> Tensor:
    """[1, 3, H, W]: where each channel is seen."""
    cell = F.one_hot(torch.tensor(BAYER, device=like.device), 3).permute(2, 0, 1).to(like)
    return cell.repeat(1, like.shape[-2] // 2, like.shape[-1] // 2)[None]


def _mix(image: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("oc,bchw->bohw", matrix.to(image), image)
